"""Classify all latents of one crosscoder and count."""

import pandas as pd

from crossdiff.config import Classes, LatentScaling
from crossdiff.latents.evaluation import beta_table, evaluate
from crossdiff.provenance.storage import read_json, write_csv, write_json, write_parquet
from crossdiff.workflow.job import job


def main(
    scaling: str,
    quality: str,
    fired: str,
    classes: Classes,
    thresholds: LatentScaling,
    betas: str,
    csv: str,
    evaluation: str,
) -> None:
    table = beta_table(pd.read_parquet(scaling), pd.read_parquet(fired), classes, thresholds)
    write_parquet(betas, table)
    write_csv(csv, table)
    write_json(evaluation, evaluate(table, read_json(quality), classes))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            scaling=snakemake.input.scaling,
            quality=snakemake.input.quality,
            fired=snakemake.input.fired,
            classes=settings.classes,
            thresholds=settings.latent_scaling,
            betas=snakemake.output.betas,
            csv=snakemake.output.csv,
            evaluation=snakemake.output.evaluation,
        )
