"""Find the twins of one crosscoder, and whether they fire in the same places."""

import pandas as pd

from crossdiff.config import Twins
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.latents.twins import find_twins
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(active: str, weights: str, config: str, betas: str, settings: Twins, twins: str) -> None:
    write_csv(twins, find_twins(load_crosscoder(weights, config), active, pd.read_parquet(betas), settings))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            active=snakemake.input.active,
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            betas=snakemake.input.betas,
            settings=settings.twins,
            twins=snakemake.output[0],
        )
