"""Harvest the activations of one model on one token shard."""

from crossdiff.activations.harvest import harvest_shard
from crossdiff.device import fast_dtype
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    model: str, tokens: str, layer: int, replacements: dict[int, int], batch_tokens: int, cache: str
) -> None:
    loaded = with_replacements(load_model(model, fast_dtype()), replacements)
    harvest_shard(loaded, read_shard(tokens), layer, batch_tokens, cache)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            tokens=snakemake.input.tokens,
            layer=settings.pair.layer,
            replacements=dict(snakemake.params.replacements),
            batch_tokens=snakemake.resources.batch_tokens,
            cache=snakemake.output[0],
        )
