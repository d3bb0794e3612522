"""Crosscoders that train while both models run end as they do from caches, alone, and after a stop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings
from helpers_live import LivePair, live_pair
from helpers_newer import OWN, newer_settings
from safetensors.torch import load_file

from crossdiff.activations.live import AHEAD, LiveActivations
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders import from_models
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.from_models import ModelFeed
from crossdiff.crosscoders.handover import Order, Outputs, is_left, take
from crossdiff.crosscoders.together import train_all
from crossdiff.crosscoders.trainer import Training
from crossdiff.errors import UserError
from crossdiff.provenance.storage import writing_for

CPU = torch.device("cpu")
STEPS = 30
COMMON = {"tokens": 16 * STEPS, "batch": 16, "learning_rate": 1e-2, "log_every": 7}
SETTINGS: dict[str, CrosscoderSettings] = {
    "batchtopk": batchtopk_settings(threshold_start_step=15, dead_after_tokens=300, k=2, **COMMON),
    "l1": l1_settings(init_norm=0.1, **COMMON),
    "short": l1_settings(init_norm=0.1, **COMMON | {"tokens": 16 * 9}),
    "other-batches": l1_settings(init_norm=0.1, **COMMON | {"batch": 8}),
    "other-pools": l1_settings(init_norm=0.1, **COMMON | {"buffer_tokens": 60}),
    "large": l1_settings(**COMMON | {"batch": 128}),
    "broken": l1_settings(**COMMON | {"learning_rate": 1e30}),
}
NEWER = {
    name: newer_settings(
        name, init_norm=0.5, **COMMON, **({"threshold_start_step": 15} if "k" in own else {})
    )
    for name, own in OWN.items()
}
SETTINGS |= NEWER
NAMED = ("batchtopk", "l1", "batchtopk 1", "short", "other-batches", "other-pools")
Orders = Callable[..., list[Order]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LivePair:
    lengths = np.random.default_rng(0).integers(2, 31, (2, 15)).tolist()
    return live_pair(tmp_path_factory.mktemp("pair"), lengths)


@pytest.fixture
def orders(pair: LivePair, tmp_path: Path) -> Orders:
    """Make orders of crosscoders by their names, "l1" or "l1 1" with another seed."""

    def make(*named: str, folder: str = "together") -> list[Order]:
        found = []
        for name in named:
            crosscoder, _, seed = name.partition(" ")
            place = tmp_path / folder / name.replace(" ", "-")
            files = ("weights.safetensors", "config.json", "log.csv")
            outputs = Outputs(*(str(place / file) for file in files))
            identity = name.encode().hex() * 2
            found.append(Order(name, SETTINGS[crosscoder], int(seed or 0), identity, pair.inputs, outputs))
        return found

    return make


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches of the tests were harvested in float32."""
    monkeypatch.setattr("crossdiff.crosscoders.from_models.fast_dtype", lambda: torch.float32)


def feed(made: Sequence[Order], device: torch.device) -> ModelFeed:
    return ModelFeed(made, device, replacements={}, batch_tokens=64, statistics_tokens=1)


def trained(made: list[Order]) -> list[Order]:
    """Train all in the job of the first."""
    with writing_for(made[0].identity):
        train_all(made[0], made[1:], CPU, feed)
    return made


def results(order: Order) -> list[bytes]:
    return [Path(path).read_bytes() for path in order.outputs]


def alone(orders: Orders, *named: str) -> list[list[bytes]]:
    return [results(trained([order])[0]) for order in orders(*named, folder="alone")]


def test_results_are_those_of_separate_jobs(orders: Orders) -> None:
    _own, *others = made = trained(orders(*NAMED))
    assert all(is_left(order) and take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *NAMED)


def test_newer_losses_end_as_in_separate_jobs(orders: Orders) -> None:
    _own, *others = made = trained(orders(*NEWER))
    assert all(is_left(order) and take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *NEWER)


def test_a_small_sample_does_not_decide_the_scale(
    pair: LivePair, monkeypatch: pytest.MonkeyPatch, orders: Orders
) -> None:
    summary = pair.cached.summary
    small = summary._replace(tokens=9, rms=[2 * summary.rms[0], summary.rms[1]])
    monkeypatch.setattr("crossdiff.crosscoders.from_models.read_summary", lambda _path: small)
    [order] = orders("l1")
    of_all = ModelFeed([order], CPU, replacements={}, batch_tokens=64, statistics_tokens=10_000)
    assert of_all.activations.summary.rms == pytest.approx(summary.rms, rel=1e-3)
    assert feed([order], CPU).activations.summary.rms == small.rms


def test_both_models_run_once_for_all_with_equal_pools(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, fill = [], LiveActivations._fill

    def counted(self: LiveActivations, memory: torch.Tensor, sequences: np.ndarray, after: Any) -> np.ndarray:
        filled.append(tuple(sequences.tolist()))
        return fill(self, memory, sequences, after)

    monkeypatch.setattr(LiveActivations, "_fill", counted)
    trained(orders("l1"))
    once = len(filled)
    trained(orders("batchtopk", "short", "l1 1", "l1 2"))
    assert filled[once:] == filled[:once]


@pytest.mark.parametrize("name", ["batchtopk", "l1", "delta", "jumprelu", "difference"])
def test_the_crosscoder_is_that_of_caches_read_in_the_same_order(
    pair: LivePair, orders: Orders, name: str
) -> None:
    [order] = trained(orders(name))
    live = LiveActivations(pair.models, pair.shards, pair.cached.summary, 64, CPU)
    stored = torch.cat([shard.read(0, shard.rows) for shard in pair.cached.shards])
    reference, start = (Training(pair.cached, SETTINGS[name], 0, CPU) for _ in range(2))
    for pool in live.pools(SETTINGS[name].buffer_tokens):
        whole = len(pool.order) - len(pool.order) % 16
        for rows in pool.order[:whole].split(16):
            if reference.done < STEPS:
                reference.step(stored[pool.rows[rows]])
        if reference.done == STEPS:
            break
    weights = load_file(order.outputs.weights)
    states = [training.crosscoder.state_dict() for training in (start, reference)]
    for key, saved in weights.items():
        before, value = (state[key] for state in states)
        moved = (value - before).abs().max().item()
        assert (saved - value).abs().max().item() <= 1e-3 * max(moved, 1e-6), key


def stopped(
    made: list[Order], monkeypatch: pytest.MonkeyPatch, end: Callable[[Callable[[], None]], Any]
) -> None:
    """Train until SIGTERM comes. ``end`` gets a function that sends it, and changes something to call it."""
    opened: list[Checkpoint] = []
    enter = Checkpoint.__enter__

    def entered(self: Checkpoint) -> Checkpoint:
        opened.append(self)
        return enter(self)

    def terminate() -> None:
        for checkpoint in opened:
            checkpoint.terminated = True

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "__enter__", entered)
        patch.setattr(*end(terminate))
        with pytest.raises(SystemExit):
            trained(made)


@pytest.mark.parametrize("stop", [1, 4, 17, 29])
def test_a_stopped_training_goes_on_in_the_middle_of_a_pool(
    orders: Orders, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    step, named = Training.step, ("l1", "batchtopk", "other-batches")

    def after_step(terminate: Callable[[], None]) -> Any:
        def stepped(self: Training, batch: torch.Tensor) -> None:
            step(self, batch)
            if self.done == stop and self.settings.loss == "batchtopk":
                terminate()

        return Training, "step", stepped

    stopped(made := orders(*named), monkeypatch, after_step)
    state = Checkpoint(made[1].state, made[1].identity).read()
    assert state is not None and state[1]["done"] == stop
    _own, *others = trained(made)
    assert all(take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *named)


def test_a_training_that_is_stopped_while_models_run_goes_on(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait until a pool is full."""
    run, calls = LiveActivations._run, []

    def after_run(terminate: Callable[[], None]) -> Any:
        def ran(self: LiveActivations, *batch: Any) -> torch.Tensor:
            calls.append(batch)
            if len(calls) == 30:
                terminate()
            return run(self, *batch)

        return LiveActivations, "_run", ran

    stopped(made := orders("l1", "batchtopk"), monkeypatch, after_run)
    assert 30 <= len(calls) <= 30 + 2 * (AHEAD + 1)  # both models have begun a few batches more
    _own, other = trained(made)
    assert take(other)
    assert [results(order) for order in made] == alone(orders, "l1", "batchtopk")


def test_one_that_fails_leaves_the_others_alone(orders: Orders) -> None:
    made = trained(orders("l1", "broken", "large", "batchtopk"))
    with pytest.raises(UserError, match="the loss is nan"):
        take(made[1])
    with pytest.raises(UserError) as raised:
        take(made[2])
    assert str(raised.value) == (
        "crosscoders: batch: found 128, allowed with activations.store: none: up to the 95 tokens of a pool "
        "(a fifth of the training tokens); lower it, or use store: all"
    )
    assert take(made[3])
    assert [results(order) for order in (made[0], made[3])] == alone(orders, "l1", "batchtopk")


def test_pools_in_which_too_few_tokens_count_are_an_error(
    pair: LivePair, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    [order] = orders("l1")
    strict = pair.cached.summary._replace(max_norm_ratio=0.8)
    monkeypatch.setattr("crossdiff.crosscoders.from_models.read_summary", lambda _path: strict)
    with pytest.raises(UserError, match=r"batch: found 16, but only \d+ tokens of a pool count; lower it"):
        trained([order])


@pytest.mark.parametrize(
    ("gpus", "places"),
    [(1, [[0], [0]]), (2, [[1, 0], [0, 1]]), (3, [[2, 1, 0], [1, 0, 2]]), (4, [[3, 2, 1, 0], [2, 1, 0, 3]])],
)
def test_each_model_begins_with_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, gpus: int, places: list[list[int]]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = from_models._devices(torch.device("cuda"))
    assert [[where.index for where in devices] for devices in found] == places
    assert from_models._devices(CPU) == [[CPU], [CPU]]
