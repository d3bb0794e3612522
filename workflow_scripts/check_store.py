"""Check that the files of activations that others stored agree, and are of the model's width."""

from crossdiff.activations.stored import describe
from crossdiff.provenance.storage import read_json, record_mark, write_json
from crossdiff.workflow.job import job


def main(folder: str, checked: str, described: str) -> None:
    # The mark changes with the files, so that what reads the store is made again.
    write_json(described, describe(folder, read_json(checked)["d_model"]) | record_mark())


if __name__ == "__main__":
    with job(snakemake) as settings:
        w = snakemake.wildcards
        main(
            folder=settings.stores[w.dataset].folders(w.split)[w.model],
            checked=snakemake.input.checked,
            described=snakemake.output[0],
        )
