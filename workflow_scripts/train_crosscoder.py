"""Train one crosscoder, or go on with one that was interrupted."""

import hashlib
import json
from pathlib import Path

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import crosscoder_settings
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.trainer import train
from crossdiff.device import device
from crossdiff.job import job
from crossdiff.storage import atomic_path
from crossdiff.workflow import section


def main(
    activations: PairedActivations,
    held_out: PairedActivations | None,
    settings: dict,
    seed: int,
    identity: str,
    weights: str,
    config: str,
    training_log: str,
) -> None:
    with Checkpoint(Path(weights).with_name(".checkpoint.safetensors"), identity) as checkpoint:
        with atomic_path(training_log) as log:
            crosscoder = train(activations, crosscoder_settings(settings), seed, device(), log, held_out, checkpoint)
        crosscoder.save(weights, config, training=settings | {"seed": seed})
        checkpoint.remove()


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            held_out=PairedActivations.of(snakemake.input, "held_out_") if "held_out_tokens" in snakemake.input.keys() else None,
            settings=section(settings, "crosscoders", snakemake.wildcards.crosscoder),
            seed=int(snakemake.wildcards.seed),
            identity=hashlib.sha256(
                json.dumps([settings, snakemake.wildcards.seed, snakemake.params.code, Path(snakemake.input.summary).read_text()]).encode()
            ).hexdigest(),
            weights=snakemake.output.weights,
            config=snakemake.output.config,
            training_log=snakemake.output.log,
        )
