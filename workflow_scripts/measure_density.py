"""Measure how often the latents of every training fire."""

import pandas as pd

from crossdiff.config import Density
from crossdiff.latents.density import density_table
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(betas: dict[tuple[str, int], str], density: Density, top: int, table: str) -> None:
    write_csv(
        table,
        density_table({training: pd.read_parquet(path) for training, path in betas.items()}, density, top),
    )


if __name__ == "__main__":
    with job(snakemake) as settings:
        trainings = [tuple(training) for training in snakemake.params.trainings]
        main(
            betas=dict(zip(trainings, snakemake.input, strict=True)),
            density=settings.density,
            top=settings.classes.top,
            table=snakemake.output[0],
        )
