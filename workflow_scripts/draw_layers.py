"""Draw all pairs over the layers."""

import pandas as pd

from crossdiff.report.figures.drawing import write
from crossdiff.report.figures.overview import layers
from crossdiff.workflow.job import job


def main(pairs: str, drawing: list[str], caption: str) -> None:
    write(layers, drawing, caption, pd.read_csv(pairs))


if __name__ == "__main__":
    with job(snakemake):
        main(
            pairs=snakemake.input.pairs,
            drawing=list(snakemake.output.drawing),
            caption=snakemake.output.caption,
        )
