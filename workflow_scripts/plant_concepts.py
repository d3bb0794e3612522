"""Plant concepts into one shard: both models' caches, and every firing."""

from crossdiff.activations.cache import read_header, read_rows, write_cache
from crossdiff.config import Planted
from crossdiff.planted.concepts import read_concepts
from crossdiff.planted.planting import firings, noise, plant
from crossdiff.provenance.storage import write_parquet
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    tokens: str,
    background: str | None,
    table: str,
    directions: str,
    settings: Planted,
    layer: int,
    caches: list[str],
    fired: str,
) -> None:
    shard, concepts = read_shard(tokens), read_concepts(table, directions)
    firing = firings(concepts.table, settings, shard)
    activations = (
        read_rows(background, 0, read_header(background).rows)
        if background
        else noise(settings.noise, settings, shard)
    )
    for path, model in zip(caches, plant(activations, concepts, firing), strict=True):
        write_cache(path, model, layer, shard.token)
    write_parquet(fired, firing)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            tokens=snakemake.input.tokens,
            background=snakemake.input.get("background") or None,
            table=snakemake.input.table,
            directions=snakemake.input.directions,
            settings=settings.pair.chat.planted,
            layer=settings.pair.layer,
            caches=[snakemake.output.base, snakemake.output.chat],
            fired=snakemake.output.firings,
        )
