"""How far the order of the training tokens alone changes the fraction of variance explained.

    python benchmarks/live_order.py results/PAIR/layerN/CROSSCODER/seedS [--seeds 3]

Trains the crosscoder of a finished run again from its caches: once in the order in which trainings read
caches, and once in that of ``activations.store: none``. Each seed has its own first weights and another part
of either order. Weights differ from those of ``store: none`` only by the rounding of forward passes, so no
model runs. Prints FVE on held-out tokens, and the mean difference with its 95 % interval over seeds.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.harvest import Batch, batch_of, length_batches
from crossdiff.activations.live import LiveActivations
from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import crosscoder_settings
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.quality import reconstruction_quality
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device
from crossdiff.intervals import student_mean
from crossdiff.provenance.records import read_record
from crossdiff.provenance.storage import read_json


class FromCaches(LiveActivations):
    """The pools of ``store: none``, filled from caches in place of models."""

    def __init__(self, cached: PairedActivations, batch_tokens: int) -> None:
        self.summary, self.batch_tokens, self.device = cached.summary, batch_tokens, torch.device("cpu")
        self.layer, self.d_model, self.taken = cached.layer, cached.d_model, 0
        shards = cached.shards
        self.token = np.concatenate([shard.tokens.token for shard in shards])
        self.position = np.concatenate([shard.tokens.position for shard in shards])
        self.starts = np.flatnonzero(self.position == 0)
        self.lengths = np.diff(np.append(self.starts, len(self.token)))
        self.late = np.maximum(self.lengths - self.summary.skip_first, 0)
        self.stored = torch.cat([shard.read(0, shard.rows) for shard in shards])
        self.norms = torch.from_numpy(np.concatenate([shard.norms for shard in shards], axis=1))

    def _computed(self, sequences: np.ndarray) -> Iterator[tuple[Batch, list[Tensor], Tensor]]:
        starts, lengths = self.starts[sequences], self.lengths[sequences]
        for group in length_batches(lengths, self.batch_tokens):
            batch = batch_of(self.token, starts[group], lengths[group])
            rows = torch.from_numpy(batch.rows)
            yield batch, list(self.stored[rows].unbind(1)), self.norms[:, rows]


def live_batches(source: FromCaches, training: Training, seed: int) -> Iterator[Tensor]:
    """Batches in the order of ``store: none``. Each seed begins with other pools."""
    settings = training.settings
    first = seed * (1 + settings.tokens // source.size(settings.buffer_tokens))
    for pool in source.pools(settings.buffer_tokens, first):
        yield from pool.batches(settings.batch, 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    given: dict[str, Any] = read_json(options.training / "config.json")["training"]
    settings = crosscoder_settings({name: value for name, value in given.items() if name != "seed"})
    cached, held_out = (
        _activations(options.training / file) for file in ("weights.safetensors", "reconstruction.json")
    )
    pools = FromCaches(cached, 8192)
    found: list[list[float]] = []
    for seed in range(options.seeds):
        for order in ("caches", "none"):
            training = Training(cached, settings, seed, device())
            batches = training.batches(cached) if order == "caches" else live_batches(pools, training, seed)
            with closing(batches):  # type: ignore[type-var]
                for batch in itertools.islice(batches, settings.steps):
                    training.step(batch)
            crosscoder = training.finish(None).eval().requires_grad_(False)
            quality, _ = reconstruction_quality(crosscoder, encode(crosscoder, held_out.blocks()))
            found.append([100 * quality["fve_base"], 100 * quality["fve_chat"]])
            print(f"seed {seed}, {order:<7} FVE {found[-1][0]:.2f} {found[-1][1]:.2f}", flush=True)
    values = np.array(found).reshape(options.seeds, 2, 2)  # (seed, order, model)
    for name, apart in zip(("base", "chat"), (values[:, 1] - values[:, 0]).T, strict=True):
        mean, low, high = student_mean(apart.tolist())
        print(f"{name}: none - caches {mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")


def _activations(result: Path) -> PairedActivations:
    """The activations that a result was made from."""
    inputs: dict[str, Any] = {}
    root = _root(result)
    for entry in read_record(result).inputs:
        inputs.setdefault(entry.name, []).append(str(root / entry.path))
    return PairedActivations.of(inputs | {"summary": inputs["summary"][0]})


def _root(result: Path) -> Path:
    """The folder in which the run was made, which holds ``results``."""
    return next(parent.parent for parent in result.resolve().parents if parent.name == "results")


if __name__ == "__main__":
    main()
