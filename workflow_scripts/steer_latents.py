"""Turn latents of one crosscoder up and down while the chat model answers held-out requests."""

import pandas as pd

from crossdiff.activations.pairs import read_summary
from crossdiff.config import BASE, SteeringGrid
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import fast_dtype
from crossdiff.interventions.steering_effects import steering
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.refusals import read_requests
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import write_csv, write_parquet
from crossdiff.workflow.job import job


def main(
    crosscoder_name: str,
    base: str,
    chat: str,
    tokenizer: str,
    requests: str,
    weights: str,
    config: str,
    betas: str,
    summary: str,
    replacements: dict[int, int],
    layer: int,
    top: int,
    named: list[int],
    settings: SteeringGrid,
    candidates: str,
    effects: str,
    answers: str,
) -> None:
    models = [load_model(folder, fast_dtype()) for folder in (base, chat)]
    with_replacements(models[BASE], replacements)
    crosscoder = load_crosscoder(weights, config, layer, models[0].config.get_text_config().hidden_size)
    found = steering(
        *models,
        load_chat_tokenizer(tokenizer),
        crosscoder,
        read_summary(summary),
        pd.read_parquet(betas),
        read_requests(requests),
        named,
        crosscoder_name,
        top,
        settings,
    )
    for path, table in zip((candidates, effects), found[:2], strict=True):
        write_csv(path, table)
    write_parquet(answers, found.answers)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            crosscoder_name=snakemake.wildcards.crosscoder,
            **{
                name: snakemake.input[name]
                for name in ("base", "chat", "tokenizer", "requests", "weights", "config", "betas", "summary")
            },
            replacements=settings.tokens.base_replacements,
            layer=settings.pair.layer,
            top=settings.classes.top,
            named=snakemake.params.latents,
            settings=settings.steering,
            **{name: snakemake.output[name] for name in ("candidates", "effects", "answers")},
        )
