"""Find the twins of one crosscoder, and whether they fire in the same places."""

import pandas as pd

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Twins
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.twins import find_twins
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(activations: PairedActivations, weights: str, config: str, betas: str, settings: Twins, twins: str) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    write_csv(twins, find_twins(crosscoder, activations, pd.read_parquet(betas), settings))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            betas=snakemake.input.betas,
            settings=settings.twins,
            twins=snakemake.output[0],
        )
