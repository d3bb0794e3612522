"""Read a crosscoder that others trained, and write it as a training's files."""

from crossdiff.config import ImportedCrosscoder
from crossdiff.crosscoders.imported import import_crosscoder
from crossdiff.provenance.storage import read_json
from crossdiff.workflow.job import job


def main(entry: ImportedCrosscoder, pair: str, key: str, weights: str, config: str) -> None:
    import_crosscoder(entry, read_json(pair)["base"]["d_model"], key, weights, config)


if __name__ == "__main__":
    with job(snakemake) as settings:
        name = snakemake.wildcards.crosscoder
        main(
            entry=settings.imported[name],
            pair=snakemake.input.pair,
            key=f"crosscoders.{name}.import",
            weights=snakemake.output.weights,
            config=snakemake.output.config,
        )
