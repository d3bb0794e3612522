"""Latent scaling of one crosscoder."""

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Bootstrap
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.scaling import latent_scaling
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


def main(activations: PairedActivations, weights: str, config: str, bootstrap: Bootstrap, table: str) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    write_parquet(table, latent_scaling(crosscoder, activations.blocks(), activations.tokens, bootstrap))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            bootstrap=settings.latent_scaling.bootstrap,
            table=snakemake.output[0],
        )
