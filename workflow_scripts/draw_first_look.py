"""Draw how both models differ over the layers."""

import pandas as pd

from crossdiff.provenance.storage import read_json
from crossdiff.report.figures.drawing import write
from crossdiff.report.figures.first_look import over_layers
from crossdiff.workflow.job import job


def main(layers: str, summary: str, drawing: list[str], caption: str) -> None:
    write(over_layers, drawing, caption, pd.read_csv(layers), read_json(summary)["suggested_layer"])


if __name__ == "__main__":
    with job(snakemake):
        main(
            layers=snakemake.input.layers,
            summary=snakemake.input.summary,
            drawing=list(snakemake.output.drawing),
            caption=snakemake.output.caption,
        )
