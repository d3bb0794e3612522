"""Draw the concepts that are planted."""

from crossdiff.activations.pairs import PairedShard, summarise
from crossdiff.config import Activations, Planted
from crossdiff.planted.concepts import draw, write_concepts
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    tokens: list[str],
    background: list[str],
    settings: Planted,
    activations: Activations,
    table: str,
    directions: str,
) -> None:
    if settings.noise:
        norm, d_model = settings.noise.norm, settings.noise.d_model
    else:  # before planting, the background stands for both models
        shards = [
            PairedShard(tokens_path, cache, cache)
            for tokens_path, cache in zip(tokens, background, strict=True)
        ]
        norm, d_model = summarise(shards, activations).rms[0], shards[0].d_model
    write_concepts(table, directions, draw(settings, [read_shard(path) for path in tokens], norm, d_model))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            tokens=list(snakemake.input.tokens),
            background=list(snakemake.input.background),
            settings=settings.pair.chat.planted,
            activations=settings.activations,
            table=snakemake.output.table,
            directions=snakemake.output.directions,
        )
