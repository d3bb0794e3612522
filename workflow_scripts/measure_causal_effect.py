"""Patch sets of latents from the chat into the base model, and measure the KL to the chat model."""

import pandas as pd

from crossdiff.activations.pairs import read_summary
from crossdiff.config import BASE, Patching
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device, fast_dtype
from crossdiff.interventions.causal_effect import (
    causal_effect,
    conversations,
    group_sets,
    members,
    patched_sets,
    without_rankings,
)
from crossdiff.latents.applies import reason
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import write_csv
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    base: str,
    chat: str,
    shards: dict[str, list[str]],
    weights: str,
    config: str,
    betas: str,
    groups: str,
    summary: str,
    replacements: dict[int, int],
    layer: int,
    top: int,
    settings: Patching,
    batch_tokens: int,
    table: str,
    sets: str,
) -> None:
    models = [load_model(folder, fast_dtype()) for folder in (base, chat)]
    with_replacements(models[BASE], replacements)
    crosscoder = load_crosscoder(weights, config, layer, models[0].config.get_text_config().hidden_size).to(
        device()
    )
    answers = conversations(
        {dataset: [read_shard(path) for path in paths] for dataset, paths in shards.items()},
        settings.conversations,
    )
    latents = pd.read_parquet(betas)
    patched = patched_sets(latents, top, settings.random_sets, settings.seed)
    patched |= group_sets(pd.read_csv(groups))
    found = causal_effect(
        *models, crosscoder, read_summary(summary), answers, patched, settings, batch_tokens
    )
    write_csv(table, without_rankings(found, why) if (why := reason(latents)) else found)
    write_csv(sets, members(patched))


if __name__ == "__main__":
    with job(snakemake) as settings:
        shards = {dataset: [] for dataset in snakemake.params.datasets}
        for dataset, path in zip(snakemake.params.datasets, snakemake.input.conversations, strict=True):
            shards[dataset].append(path)
        main(
            base=snakemake.input.base,
            chat=snakemake.input.chat,
            shards=shards,
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            betas=snakemake.input.betas,
            groups=snakemake.input.groups,
            summary=snakemake.input.summary,
            replacements=settings.tokens.base_replacements,
            layer=settings.pair.layer,
            top=settings.classes.top,
            settings=settings.causal,
            batch_tokens=snakemake.resources.batch_tokens,
            table=snakemake.output.kl,
            sets=snakemake.output.sets,
        )
