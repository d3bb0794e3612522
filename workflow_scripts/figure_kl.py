"""Draw the KL to the chat model of every patched run."""

import pandas as pd

from crossdiff.report.figures.causal_effect import kl
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(tables: dict[str, str], paths: list[str]) -> None:
    save(kl({name: pd.read_csv(path) for name, path in tables.items()}), paths)


if __name__ == "__main__":
    with job(snakemake):
        main(tables=dict(zip(snakemake.params.crosscoders, snakemake.input, strict=True)), paths=list(snakemake.output))
