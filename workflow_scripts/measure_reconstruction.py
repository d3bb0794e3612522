"""Measure reconstruction and firing counts of one crosscoder on validation tokens, and store its codes."""

import pandas as pd

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders.active_file import active_writer
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.crosscoders.quality import check_explains, reconstruction_quality
from crossdiff.device import device
from crossdiff.provenance.storage import read_json, write_json, write_parquet
from crossdiff.workflow.job import job


def main(
    activations: PairedActivations, weights: str, config: str, quality: str, fired: str, active: str
) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    with active_writer(active, activations.token_shards) as writer:
        measured, counts = reconstruction_quality(
            crosscoder, encode(crosscoder, activations.blocks(), writer)
        )
    check_explains(measured, read_json(config))
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
            active=snakemake.output.active,
        )
