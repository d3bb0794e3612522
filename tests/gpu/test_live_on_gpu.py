"""Pools that models fill on a GPU hold what they hold on a CPU. Training from them goes on after a stop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import batchtopk_settings
from helpers_live import LivePair, live_pair

from crossdiff.activations.live import LiveActivations
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.from_models import ModelFeed
from crossdiff.crosscoders.handover import Order, Outputs
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.crosscoders.together import train_all
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device
from crossdiff.provenance.storage import writing_for

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
STEPS = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LivePair:
    lengths = np.random.default_rng(0).integers(2, 40, (2, 60)).tolist()
    return live_pair(tmp_path_factory.mktemp("pair"), lengths)


def test_pools_on_a_gpu_are_those_of_a_cpu(pair: LivePair) -> None:
    moved = [model.to(device()) for model in pair.models]
    there = LiveActivations(moved, pair.shards, pair.cached.summary, 256, device())
    stored = torch.cat([shard.read(0, shard.rows) for shard in pair.cached.shards])
    for pool in there.pools(500_000):
        assert pool.activations.device.type == "cuda"
        torch.testing.assert_close(pool.activations.cpu(), stored[pool.rows], rtol=2**-6, atol=1e-3)
        for number, batch in enumerate(pool.batches(64, 0)):
            rows = pool.order[64 * number : 64 * (number + 1)]
            assert torch.equal(batch, pool.activations[rows])
        if pool.is_rest:
            break


def from_both_models(orders: Sequence[Order], where: torch.device) -> ModelFeed:
    """Feed trainings from both models."""
    return ModelFeed(orders, where, {}, batch_tokens=256, statistics_tokens=256)


def test_a_stopped_training_goes_on_on_a_gpu(
    pair: LivePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several GPUs each model is on its own."""
    settings = batchtopk_settings(tokens=64 * STEPS, threshold_start_step=5, k=2, precision="float32")
    step, stop, found = Training.step, 0, []

    def stopping(self: Training, batch: torch.Tensor) -> None:
        step(self, batch)
        if self.done == stop:
            for checkpoint in opened:
                checkpoint.terminated = True

    enter, opened = Checkpoint.__enter__, []
    monkeypatch.setattr(Checkpoint, "__enter__", lambda self: opened.append(self) or enter(self))
    monkeypatch.setattr(Training, "step", stopping)
    for name, stops in (("whole", [0]), ("stopped", [17, 0])):
        folder = tmp_path / name
        outputs = Outputs(*(str(folder / file) for file in ("weights.safetensors", "config.json", "log.csv")))
        order = Order(name, settings, 0, "ab" * 16, pair.inputs, outputs)
        for stop in stops:
            with writing_for(order.identity):
                try:
                    train_all(order, [], device(), from_both_models)
                except SystemExit:
                    assert stop
        found.append(load_crosscoder(outputs.weights, outputs.config, 1, 16))
    for name, weight in found[0].named_parameters():
        torch.testing.assert_close(dict(found[1].named_parameters())[name], weight, rtol=1e-2, atol=1e-3)
