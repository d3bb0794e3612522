"""Train one crosscoder, or go on with one that was interrupted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.parallel import gpus, train_on_ranks
from crossdiff.crosscoders.trainer import train
from crossdiff.device import device
from crossdiff.provenance.storage import current_record
from crossdiff.workflow.job import job


def main(
    inputs: Mapping[str, Any],
    settings: CrosscoderSettings,
    seed: int,
    identity: str,
    processes: int,
    weights: str,
    config: str,
    training_log: str,
) -> None:
    state = Path(weights).with_name(".checkpoint.safetensors")
    if processes > 1:
        train_on_ranks(processes, inputs, settings, seed, state, identity, training_log)
    held_out = PairedActivations.of(inputs, "held_out_") if settings.needs_held_out else None
    with Checkpoint(state, identity) as checkpoint:
        activations = PairedActivations.of(inputs)
        crosscoder = train(activations, settings, seed, device(), training_log, held_out, checkpoint)
        crosscoder.save(weights, config, training=settings.model_dump(mode="json") | {"seed": seed})
        checkpoint.remove()


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            inputs=snakemake.input,
            settings=settings.crosscoders[snakemake.wildcards.crosscoder],
            seed=int(snakemake.wildcards.seed),
            identity=current_record(),
            processes=gpus(snakemake.resources),
            weights=snakemake.output.weights,
            config=snakemake.output.config,
            training_log=snakemake.output.log,
        )
