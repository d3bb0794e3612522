"""Turn latents of one crosscoder up and down while the chat model answers held-out prompts."""

from collections.abc import Callable

import pandas as pd
from transformers import PreTrainedTokenizerBase

from crossdiff.activations.pairs import read_summary
from crossdiff.config import BASE, SteeringGrid, TextSource
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import fast_dtype
from crossdiff.interventions.steering_choice import Asked
from crossdiff.interventions.steering_run import steering
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.refusals import read_requests
from crossdiff.models.replacements import with_replacements
from crossdiff.models.thoughts import without_thinking
from crossdiff.provenance.storage import write_csv, write_parquet
from crossdiff.workflow.job import job


def main(
    crosscoder_name: str,
    base: str,
    chat: str,
    tokenizer: str,
    ask: Callable[[str, PreTrainedTokenizerBase], Asked],
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
    answers: str,
) -> None:
    models = [load_model(folder, fast_dtype()) for folder in (base, chat)]
    with_replacements(models[BASE], replacements)
    crosscoder = load_crosscoder(weights, config, layer, models[0].config.get_text_config().hidden_size)
    asker, _ = without_thinking(load_chat_tokenizer(tokenizer))
    found = steering(
        *models,
        asker,
        crosscoder,
        read_summary(summary),
        pd.read_parquet(betas),
        ask("train", asker),
        ask("held_out", asker),
        named,
        crosscoder_name,
        top,
        settings,
    )
    write_csv(candidates, found.candidates)
    write_parquet(answers, found.answers)


def of_requests(path: str, phrasings: int) -> Callable[[str, PreTrainedTokenizerBase], Asked]:
    return lambda part, tokenizer: Asked.of(read_requests(path), part, phrasings, tokenizer)


def of_chats(
    source: TextSource, name: str, count: int, longest: int, archive: str | None
) -> Callable[[str, PreTrainedTokenizerBase], Asked]:
    splits = {"train": "train", "held_out": "validation"}
    return lambda part, tokenizer: Asked.of_chats(
        source, name, splits[part], count, longest, tokenizer, archive
    )


if __name__ == "__main__":
    with job(snakemake) as settings:
        grid = settings.steering
        main(
            crosscoder_name=snakemake.wildcards.crosscoder,
            **{
                name: snakemake.input[name]
                for name in ("base", "chat", "tokenizer", "weights", "config", "betas", "summary")
            },
            ask=of_requests(snakemake.input.requests, grid.phrasings)
            if grid.prompts is None
            else of_chats(
                settings.datasets[grid.prompts],
                grid.prompts,
                grid.conversations,
                settings.tokens.context - grid.answer_tokens,
                snakemake.input.get("archive") or None,
            ),
            replacements=settings.tokens.base_replacements,
            layer=settings.pair.layer,
            top=settings.classes.top,
            named=snakemake.params.latents,
            settings=grid,
            **{name: snakemake.output[name] for name in ("candidates", "answers")},
        )
