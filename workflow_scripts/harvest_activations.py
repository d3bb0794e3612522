"""Harvest the activations of one model on one token shard, at one layer or several."""

from crossdiff.activations.harvest import harvest_shard
from crossdiff.device import fast_dtype
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.parts import parts_of
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import jobs


def main(
    model: str, tokens: str, replacements: dict[int, int], batch_tokens: int, caches: dict[int, str]
) -> None:
    loaded = with_replacements(load_model(model, fast_dtype()), replacements)
    harvest_shard(loaded, read_shard(tokens), caches, batch_tokens)


if __name__ == "__main__":
    with jobs(snakemake) as settings:
        parts = parts_of(snakemake.rule, snakemake)
        main(
            model=snakemake.input.model,
            tokens=snakemake.input.tokens,
            replacements=dict(parts[0].params["replacements"]),
            batch_tokens=snakemake.resources.batch_tokens,
            caches={of.pair.layer: path for of, path in zip(settings, snakemake.output, strict=True)},
        )
