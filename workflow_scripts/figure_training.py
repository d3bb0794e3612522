"""Draw the training curves."""

import pandas as pd

from crossdiff.report.figures.crosscoders import training
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(logs: dict[str, str], paths: list[str]) -> None:
    save(training({name: pd.read_csv(path) for name, path in logs.items()}), paths)


if __name__ == "__main__":
    with job(snakemake):
        main(logs=dict(zip(snakemake.params.crosscoders, snakemake.input, strict=True)), paths=list(snakemake.output))
