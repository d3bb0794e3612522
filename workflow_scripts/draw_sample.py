"""Draw a sample of every data set's training tokens."""

from shutil import copyfile

from crossdiff.provenance.storage import atomic_path
from crossdiff.texts.sample import check_documents, draw
from crossdiff.texts.shards import write_shard
from crossdiff.workflow.job import job


def main(
    shards: dict[str, list[str]],
    tokens: dict[str, int],
    texts: list[str],
    fewest_documents: int,
    samples: list[str],
    read: list[str],
) -> None:
    drawn = [draw(shards[dataset], number) for dataset, number in tokens.items()]
    check_documents(drawn, fewest_documents)
    for path, sample in zip(samples, drawn, strict=True):
        write_shard(path, sample)
    for source, path in zip(texts, read, strict=True):  # what was read for the sample was read for them
        with atomic_path(path) as temporary:
            copyfile(source, temporary)


if __name__ == "__main__":
    with job(snakemake):
        shards = {dataset: [] for dataset, _ in snakemake.params.tokens}
        for dataset, path in zip(snakemake.params.datasets, snakemake.input.tokens, strict=True):
            shards[dataset].append(path)
        main(
            shards=shards,
            tokens=dict(snakemake.params.tokens),
            texts=list(snakemake.input.texts),
            fewest_documents=snakemake.resources.fewest_documents,
            samples=list(snakemake.output.shards),
            read=list(snakemake.output.texts),
        )
