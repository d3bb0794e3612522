"""Draw which organisms every method finds."""

import pandas as pd

from crossdiff.report.figures.drawing import write
from crossdiff.report.figures.organisms import found_matrix
from crossdiff.workflow.job import job


def main(table: str, drawing: list[str], caption: str) -> None:
    found = pd.read_csv(table).fillna({"crosscoder": "", "not_scored": ""})
    write(found_matrix, drawing, caption, found)


if __name__ == "__main__":
    with job(snakemake):
        main(
            table=snakemake.input.table,
            drawing=list(snakemake.output.drawing),
            caption=snakemake.output.caption,
        )
