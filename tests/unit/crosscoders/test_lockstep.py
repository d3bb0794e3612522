"""Trainings that share one reading of the caches end as they do alone, and fail alone."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings, planted_activations, rule_inputs
from helpers_newer import OWN, newer_settings

from crossdiff.activations.pairs import PairedActivations, PairedShard
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders import handover, memory, together
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.handover import Order, Outputs, is_left, leave, take
from crossdiff.crosscoders.together import train_all
from crossdiff.crosscoders.trainer import Training
from crossdiff.errors import UserError
from crossdiff.provenance.storage import writing_for

WIDTH, STEPS = 8, 40
CPU = torch.device("cpu")
COMMON = {"tokens": 64 * STEPS, "learning_rate": 1e-2, "log_every": 7, "buffer_tokens": 256}
SETTINGS: dict[str, CrosscoderSettings] = {
    "batchtopk": batchtopk_settings(threshold_start_step=15, dead_after_tokens=300, k=2, **COMMON),
    "held-out": batchtopk_settings(threshold="held_out", k=2, **COMMON),
    "l1": l1_settings(init_norm=0.1, **COMMON),
    "short": l1_settings(init_norm=0.1, **COMMON | {"tokens": 64 * 11}),
    "other-batches": l1_settings(init_norm=0.1, **COMMON | {"batch": 32}),
    "broken": l1_settings(**COMMON | {"learning_rate": 1e30}),
}
SETTINGS |= {name: newer_settings(name, init_norm=0.5, **COMMON) for name in OWN}
LARGE = {"buffer_tokens": 1000}
LINE = "training: the loss is nan at step 7; lower learning_rate"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders = [tmp_path_factory.mktemp(name) for name in ("train", "validation")]
    train, held_out = (
        rule_inputs(folder, *planted_activations(rows, WIDTH, seed=seed).split(450))
        for seed, (folder, rows) in enumerate(zip(folders, (900, 450), strict=True))
    )
    return train | {f"held_out_{name}": paths for name, paths in held_out.items() if name != "summary"}


@pytest.fixture
def orders(inputs: dict[str, Any], tmp_path: Path) -> Any:
    """Make orders of crosscoders by their names, "l1" or "l1 1" with another seed."""

    def make(*named: str, folder: str = "together") -> list[Order]:
        found = []
        for name in named:
            crosscoder, _, seed = name.partition(" ")
            place = tmp_path / folder / name.replace(" ", "-")
            outputs = Outputs(
                *(str(place / file) for file in ("weights.safetensors", "config.json", "log.csv"))
            )
            found.append(
                Order(name, SETTINGS[crosscoder], int(seed or 0), name.encode().hex() * 2, inputs, outputs)
            )
        return found

    return make


def results(order: Order) -> list[bytes]:
    return [Path(path).read_bytes() for path in order.outputs]


def alone(orders: Any, *named: str) -> list[list[bytes]]:
    """Train each in a job of its own, and give the bytes of its results."""
    made = orders(*named, folder="alone")
    for order in made:
        with writing_for(order.identity):
            train_all(order, [], CPU)
    return [results(order) for order in made]


def trained(orders: Any, *named: str) -> list[Order]:
    """Train all in the job of the first."""
    made = orders(*named)
    with writing_for(made[0].identity):
        train_all(made[0], made[1:], CPU)
    return made


def test_results_are_those_of_separate_jobs(orders: Any) -> None:
    named = ("batchtopk", "l1", "batchtopk 1", "held-out", "l1 1", "short", "other-batches")
    _own, *others = made = trained(orders, *named)
    assert all(not Path(order.outputs.weights).exists() and is_left(order) for order in others)
    assert all(take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *named)
    for order in made:
        assert {path.name for path in Path(order.outputs.weights).parent.iterdir()} == {
            Path(path).name for path in order.outputs
        }


def test_newer_losses_end_as_in_separate_jobs(orders: Any) -> None:
    _own, *others = made = trained(orders, *OWN)
    assert all(take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *OWN)


def test_a_stream_is_read_once(orders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, batches = [], PairedActivations.shuffled_batches

    def counted(self: PairedActivations, batch: int, buffer: int, seed: int, *more: Any) -> Any:
        begun.append((batch, seed))
        return batches(self, batch, buffer, seed, *more)

    monkeypatch.setattr(PairedActivations, "shuffled_batches", counted)
    trained(orders, "batchtopk", "l1", "short", "l1 1", "batchtopk 1", "other-batches")
    assert begun == [(64, 0), (64, 1), (32, 0)]


def test_data_that_fit_a_pool_are_read_from_disk_once(orders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, read_into = [], PairedShard.read_into

    def counted(self: PairedShard, out: torch.Tensor, start: int, *more: Any) -> None:
        read.append((self.paths, start))
        read_into(self, out, start, *more)

    def buffered(*named: str, folder: str = "together") -> list[Order]:
        made = orders(*named, folder=folder)
        return [order._replace(settings=order.settings.model_copy(update=LARGE)) for order in made]

    named = ("batchtopk", "l1", "l1 1")
    with monkeypatch.context() as patch:
        patch.setattr(PairedShard, "read_into", counted)
        made = trained(buffered, *named)
    assert len(read) == len(set(read)) == 2  # shards of one chunk, read for two seeds and three epochs
    assert all(take(order) for order in made[1:])
    assert [results(order) for order in made] == alone(buffered, *named)


@pytest.mark.parametrize("behind", ["batchtopk", "l1"])
def test_members_go_on_from_checkpoints_at_different_steps(
    orders: Any, monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    steps, step = {"batchtopk": 23, "l1": 23, behind: 9}, Training.step

    def stopping(self: Training, batch: torch.Tensor) -> None:
        if self.done == steps[self.settings.loss]:
            raise RuntimeError("killed")
        step(self, batch)
        checkpoint.write(*self.state())

    for order in orders("batchtopk", "l1"):
        checkpoint = Checkpoint(order.state, order.identity)
        monkeypatch.setattr(Training, "step", stopping)
        with checkpoint, pytest.raises(RuntimeError):
            activations = PairedActivations.of(order.inputs)
            training = Training(activations, order.settings, 0, CPU)
            training.run(activations)
    monkeypatch.setattr(Training, "step", step)
    own, other = trained(orders, "batchtopk", "l1")
    assert take(other)
    assert [results(own), results(other)] == alone(orders, "batchtopk", "l1")


def test_one_that_fails_leaves_its_line_to_its_own_job(orders: Any) -> None:
    own, broken, other = trained(orders, "batchtopk", "broken", "l1")
    assert take(other)
    assert [results(own), results(other)] == alone(orders, "batchtopk", "l1")
    with pytest.raises(UserError, match=LINE):
        take(broken)
    assert not take(broken)  # so the next attempt trains
    assert not Path(broken.outputs.weights).exists()


def test_own_failure_comes_after_all_others_have_ended(orders: Any) -> None:
    own, other, later = orders("broken", "l1", "l1 1")
    with pytest.raises(UserError, match=LINE):
        train_all(own, [other, later], CPU)
    assert is_left(other) and is_left(later)


def test_killed_after_its_own_training_a_job_keeps_it(orders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.step

    def killed(self: Training, batch: torch.Tensor) -> None:
        if self.seed == 1:
            raise KeyboardInterrupt
        step(self, batch)

    own, other = orders("batchtopk", "l1 1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), writing_for(own.identity):
        patch.setattr(Training, "step", killed)
        train_all(own, [other], CPU)
    assert not Path(own.outputs.weights).exists()
    assert take(own)
    assert [results(own)] == alone(orders, "batchtopk")


def test_other_errors_are_left_to_a_training_of_its_own(
    orders: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Training.step

    def no_memory(self: Training, batch: torch.Tensor) -> None:
        if self.settings.loss == "l1" and self.done == 5:
            raise torch.OutOfMemoryError("no memory")
        step(self, batch)

    monkeypatch.setattr(Training, "step", no_memory)
    own, other = trained(orders, "batchtopk", "l1")
    assert Path(own.outputs.weights).exists() and not is_left(other)
    assert "l1: ended by an error" in caplog.text


def test_termination_writes_every_checkpoint(orders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, step = signal.getsignal(signal.SIGTERM), Training.step

    def terminated(self: Training, batch: torch.Tensor) -> None:
        if self.done == 10 and self.settings.loss == "l1":
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, batch)

    monkeypatch.setattr(Training, "step", terminated)
    made = orders("batchtopk", "l1")
    with pytest.raises(SystemExit):
        train_all(made[0], made[1:], CPU)
    for order in made:
        assert Checkpoint(order.state, order.identity).read()[1]["done"] == 11
        assert not order.state.with_suffix(".lock").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_does_not_fit_trains_in_a_later_turn(
    orders: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = 2.5 * memory.training_bytes(WIDTH, 32, 64)
    monkeypatch.setattr(together, "usable_memory", lambda device: room)
    caplog.set_level(logging.INFO)
    named = ("batchtopk", "l1", "held-out", "short")
    _own, *others = made = trained(orders, *named)
    assert all(take(order) for order in others)
    assert [results(order) for order in made] == alone(orders, *named)
    assert [line for line in caplog.messages if "later turn" in line] == [
        "the GPU has no room for all; in a later turn: held-out, short"
    ]


def test_what_another_job_trains_is_left_to_it(orders: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    [other] = orders("l1")
    with Checkpoint(other.state, other.identity):
        trained(orders, "batchtopk", "l1")
    assert "l1: another job trains it now" in caplog.messages
    assert not is_left(other)


# Who takes what.


def test_results_of_other_settings_are_not_taken_but_replaced(orders: Any) -> None:
    _, other = trained(orders, "batchtopk", "l1")
    changed = other._replace(settings=SETTINGS["short"], identity="changed")
    assert not take(changed)
    assert not Path(changed.outputs.weights).exists()
    own = orders("batchtopk", folder="next")[0]
    train_all(own, [changed], CPU)
    assert not is_left(other) and take(changed)
    assert Path(changed.outputs.log).read_text().count("\n") == 3  # rows of steps 7 and 11


def test_results_that_were_damaged_are_not_taken(orders: Any) -> None:
    _, other = trained(orders, "batchtopk", "l1")
    Path(handover.waiting(other).config).unlink()
    assert not take(other)
    assert not Path(other.outputs.weights).exists()
    assert not is_left(other)


def test_nothing_is_taken_before_it_is_whole(orders: Any) -> None:
    [order] = orders("l1")
    assert not take(order)
    Path(handover.waiting(order).weights).parent.mkdir(parents=True)
    Path(handover.waiting(order).weights).write_text("weights")
    assert not take(order)
    leave(order._replace(identity="another"))
    assert not take(order)


def test_an_input_that_changes_meanwhile_is_no_result(orders: Any, inputs: dict[str, Any]) -> None:
    from crossdiff.provenance.hashing import content
    from crossdiff.provenance.records import RecordedFile

    own, other = orders("batchtopk", "l1")
    read = RecordedFile.of("summary", inputs["summary"], content(inputs["summary"]))
    os.utime(inputs["summary"])
    train_all(own, [other._replace(read=(read,))], CPU)
    with pytest.raises(UserError, match="changed while the job ran"):
        take(other)
