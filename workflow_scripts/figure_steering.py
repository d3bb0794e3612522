"""Draw what steering does to refusals, predictions and perplexity."""

import pandas as pd

from crossdiff.figures import save
from crossdiff.figures_steering import steering
from crossdiff.job import job


def main(tables: dict[str, str], paths: list[str]) -> None:
    save(steering({name: pd.read_csv(path) for name, path in tables.items()}), paths)


if __name__ == "__main__":
    with job(snakemake):
        main(tables=dict(zip(snakemake.params.names, snakemake.input, strict=True)), paths=list(snakemake.output))
