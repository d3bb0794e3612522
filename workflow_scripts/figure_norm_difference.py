"""Draw the histograms of the relative decoder norm difference."""

import pandas as pd

from crossdiff.config import Classes
from crossdiff.report.figures.crosscoders import norm_difference
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(betas: dict[str, str], classes: Classes, paths: list[str]) -> None:
    save(norm_difference({name: pd.read_parquet(path) for name, path in betas.items()}, classes), paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            betas=dict(zip(snakemake.params.crosscoders, snakemake.input, strict=True)),
            classes=settings.classes,
            paths=list(snakemake.output),
        )
