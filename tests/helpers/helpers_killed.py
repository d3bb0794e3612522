"""A training as a job runs it, in a process of its own.

The module imports little, since every new process imports it again.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossdiff.config import crosscoder_settings
from crossdiff.crosscoders import together
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.from_caches import CacheFeed
from crossdiff.crosscoders.handover import Order, Outputs
from crossdiff.crosscoders.trainer import Training

OUTPUTS = ("weights.safetensors", "config.json", "training.csv")


def order(name: str, inputs: dict[str, Any], settings: dict[str, Any], folder: Path) -> Order:
    """Make the order of a training, whose files go into ``folder``."""
    outputs = Outputs(*(str(folder / file) for file in OUTPUTS))
    return Order(name, crosscoder_settings(settings), 0, f"same {name}", inputs, outputs)


def from_models(orders: Sequence[Order], device: torch.device) -> together.Feed:
    """Let both models run in float32."""
    from crossdiff.crosscoders import from_models

    from_models.fast_dtype = lambda: torch.float32
    return from_models.ModelFeed(orders, device, {}, batch_tokens=256, statistics_tokens=256)


def train_counting(
    orders: list[tuple[str, dict[str, Any], dict[str, Any], Path]], done: Any, live: bool
) -> None:
    """Train the first of these orders, and the others with it, with checkpoints every few steps.

    ``done`` counts the steps of the first. With ``live`` both models run meanwhile.
    """
    torch.set_num_threads(1)
    step = Training.step

    def counting(self: Training, batch: torch.Tensor) -> None:
        step(self, batch)
        if not self.log.name:
            done.value = self.done

    Training.step = counting
    together.Checkpoint = partial(Checkpoint, every_seconds=0.01)
    own, *others = (order(*parts) for parts in orders)
    together.train_all(own, others, torch.device("cpu"), from_models if live else CacheFeed)
