"""Latent scaling of one crosscoder; the codes of all training tokens, on the way."""

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Bootstrap
from crossdiff.crosscoders.active_file import active_writer
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.scaling import latent_scaling
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


def main(
    activations: PairedActivations, weights: str, config: str, bootstrap: Bootstrap, table: str, active: str
) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    with active_writer(active, activations.token_shards) as writer:
        blocks = encode(crosscoder, activations.blocks(), writer)
        scaling = latent_scaling(crosscoder, blocks, activations.tokens, bootstrap)
    write_parquet(table, scaling)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            bootstrap=settings.latent_scaling.bootstrap,
            table=snakemake.output.scaling,
            active=snakemake.output.active,
        )
