"""Take the activations of one model on one token shard from those that others stored."""

from crossdiff.activations.stored import Store, check_unchanged, read_stored
from crossdiff.device import fast_dtype
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import read_json
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    model: str,
    tokens: str,
    described: str,
    folder: str,
    key: str,
    replacements: dict[int, int],
    layer: int,
    cache: str,
) -> None:
    check_unchanged(described)
    loaded = with_replacements(load_model(model, fast_dtype()), replacements)
    store = Store.open(folder, read_json(described))
    read_stored(loaded, read_shard(tokens), store, cache, layer, key)
    check_unchanged(described)


if __name__ == "__main__":
    with job(snakemake) as settings:
        w = snakemake.wildcards
        main(
            model=snakemake.input.model,
            tokens=snakemake.input.tokens,
            described=snakemake.input.store,
            folder=settings.stores[w.dataset].folders(w.split)[w.model],
            key=f"datasets.{w.dataset}.activations.{w.split}.{w.model}",
            replacements=dict(snakemake.params.replacements),
            layer=settings.pair.layer,
            cache=snakemake.output[0],
        )
