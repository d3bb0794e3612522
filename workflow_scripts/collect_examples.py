"""Collect the strongest contexts of every latent of one crosscoder."""

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Examples
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.job import job
from crossdiff.latents import strongest_examples
from crossdiff.storage import write_parquet
from crossdiff.workflow import section


def main(activations: PairedActivations, weights: str, config: str, settings: Examples, examples: str) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    write_parquet(examples, strongest_examples(crosscoder, activations, settings))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            settings=Examples(**section(settings, "examples")),
            examples=snakemake.output[0],
        )
