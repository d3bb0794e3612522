"""A training as a job runs it, in a process of its own.

The module imports little, since every new process imports it again.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossdiff.config import crosscoder_settings
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.trainer import Training

SCRIPT = Path(__file__).parents[2] / "workflow_scripts/train_crosscoder.py"
OUTPUTS = ("weights.safetensors", "config.json", "training.csv")


def train_counting(inputs: dict[str, Any], settings: dict[str, Any], folder: Path, done: Any) -> None:
    """Run the rule's script with a checkpoint every few steps; ``done`` counts the steps."""
    torch.set_num_threads(1)
    step = Training.step

    def counting(self: Training, batch: torch.Tensor) -> None:
        step(self, batch)
        done.value = self.done

    Training.step = counting
    spec = importlib.util.spec_from_file_location("train_crosscoder", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.Checkpoint = partial(Checkpoint, every_seconds=0.01)
    paths = dict(
        zip(("weights", "config", "training_log"), (str(folder / name) for name in OUTPUTS), strict=True)
    )
    script.main(inputs, crosscoder_settings(settings), seed=0, identity="same", processes=1, **paths)
