"""Draw the KL to the chat model of every hybrid."""

import pandas as pd

from crossdiff.figures.causal import kl
from crossdiff.figures.drawing import save
from crossdiff.job import job


def main(tables: dict[str, str], paths: list[str]) -> None:
    save(kl({name: pd.read_csv(path) for name, path in tables.items()}), paths)


if __name__ == "__main__":
    with job(snakemake):
        main(tables=dict(zip(snakemake.params.names, snakemake.input, strict=True)), paths=list(snakemake.output))
