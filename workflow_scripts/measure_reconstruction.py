"""Reconstruction quality and firing counts of one crosscoder on validation tokens."""

import pandas as pd

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.crosscoders.quality import reconstruction_quality
from crossdiff.device import device
from crossdiff.provenance.storage import write_json, write_parquet
from crossdiff.workflow.job import job


def main(activations: PairedActivations, weights: str, config: str, quality: str, fired: str) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    measured, counts = reconstruction_quality(crosscoder, (block.activations for block in activations.blocks()))
    write_json(quality, measured)
    write_parquet(fired, pd.DataFrame({"latent": range(len(counts)), "validation_active_tokens": counts}))


if __name__ == "__main__":
    with job(snakemake):
        main(
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            quality=snakemake.output.quality,
            fired=snakemake.output.fired,
        )
