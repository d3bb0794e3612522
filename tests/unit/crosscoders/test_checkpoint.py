"""An interrupted training goes on, bit for bit; a checkpoint folder has one owner."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings, paired, planted_activations
from helpers_newer import OWN, newer_settings

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders import checkpoint as module
from crossdiff.crosscoders.checkpoint import Checkpoint, Lock
from crossdiff.crosscoders.trainer import Training, train

WIDTH, STEPS = 8, 40
CPU = torch.device("cpu")
SETTINGS = {
    "l1": l1_settings(tokens=64 * STEPS, learning_rate=1e-2, init_norm=0.1, log_every=7),
    "batchtopk": batchtopk_settings(
        tokens=64 * STEPS,
        learning_rate=1e-2,
        log_every=7,
        threshold_start_step=15,
        dead_after_tokens=300,
        buffer_tokens=256,
        k=2,
    ),
}
NEWER = {
    name: newer_settings(name, tokens=64 * STEPS, learning_rate=1e-2, init_norm=0.5, log_every=7)
    for name in OWN
}
INTERRUPTIONS = [(name, steps) for name in SETTINGS for steps in (1, 14, 15, 23, 39)]
INTERRUPTIONS += [(name, 23) for name in NEWER]


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> PairedActivations:
    return paired(tmp_path_factory.mktemp("caches"), *planted_activations(900, WIDTH).split(450))


class Interrupted(Exception):
    pass


def interrupted_after(
    steps: int, activations: PairedActivations, settings: CrosscoderSettings, file: Path
) -> None:
    """Train with a checkpoint at every step, and stop as a killed process does after some steps."""
    step = Training.step

    def stopping(self: Training, batch: torch.Tensor) -> None:
        if self.done == steps:
            raise Interrupted
        step(self, batch)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(Interrupted),
        Checkpoint(file, "same", every_seconds=0) as checkpoint,
    ):
        patch.setattr(Training, "step", stopping)
        train(activations, settings, 0, CPU, file.with_name("log.csv"), checkpoint=checkpoint)


@pytest.mark.parametrize(("loss", "steps"), INTERRUPTIONS)
def test_resumed_training_ends_with_the_same_bits(
    activations: PairedActivations, tmp_path: Path, loss: str, steps: int
) -> None:
    settings = (SETTINGS | NEWER)[loss]
    whole = train(activations, settings, 0, CPU, tmp_path / "whole.csv")
    interrupted_after(steps, activations, settings, tmp_path / "state.safetensors")
    with Checkpoint(tmp_path / "state.safetensors", "same") as checkpoint:
        assert checkpoint.read()[1]["done"] == steps
        resumed = train(activations, settings, 0, CPU, tmp_path / "resumed.csv", checkpoint=checkpoint)
        checkpoint.remove()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "state.safetensors").exists()


def test_checkpoint_of_another_training_is_not_resumed(
    activations: PairedActivations, tmp_path: Path
) -> None:
    interrupted_after(5, activations, SETTINGS["l1"], tmp_path / "state.safetensors")
    assert Checkpoint(tmp_path / "state.safetensors", "same").read() is not None
    assert Checkpoint(tmp_path / "state.safetensors", "other").read() is None


def test_damaged_checkpoint_is_not_resumed(activations: PairedActivations, tmp_path: Path) -> None:
    interrupted_after(5, activations, SETTINGS["l1"], tmp_path / "state.safetensors")
    whole = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    assert Checkpoint(tmp_path / "state.safetensors", "same").read() is None


def test_what_a_killed_owner_was_writing_is_removed(tmp_path: Path) -> None:
    for name in (".state.safetensors.0a1b2c3d.safetensors", ".tmpAbCdEf", "weights.safetensors"):
        (tmp_path / name).touch()
    with Checkpoint(tmp_path / "state.safetensors", "same"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["state.lock", "weights.safetensors"]


def test_checkpoints_are_written_as_often_as_asked(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "same", every_seconds=1000)
    assert not checkpoint.is_due()
    checkpoint.written -= 1000
    assert checkpoint.is_due()
    checkpoint.write({"a": torch.ones(1)}, {})
    assert not checkpoint.is_due()


def test_termination_writes_a_last_checkpoint_and_ends_the_process(
    activations: PairedActivations, tmp_path: Path
) -> None:
    before, step = signal.getsignal(signal.SIGTERM), Training.step

    def terminated(self: Training, batch: torch.Tensor) -> None:
        if self.done == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, batch)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as ended,
        Checkpoint(tmp_path / "state.safetensors", "same") as checkpoint,
    ):
        patch.setattr(Training, "step", terminated)
        train(activations, SETTINGS["batchtopk"], 0, CPU, tmp_path / "log.csv", checkpoint=checkpoint)
    assert ended.value.code == 143
    assert Checkpoint(tmp_path / "state.safetensors", "same").read()[1]["done"] == 11
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "state.lock").exists()


# The lock


def write_lock(path: Path, **owner: object) -> None:
    path.write_text(
        json.dumps(
            {"host": Lock(path).owner["host"], "pid": os.getpid(), "slurm_job": None, "token": "other"}
            | owner
        )
    )


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_lock_names_its_owner_and_is_removed_on_release(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "folder/lock.json")
    lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()
    assert not any(lock.path.parent.iterdir())


def test_second_owner_waits_for_the_first(tmp_path: Path) -> None:
    path, order = tmp_path / "lock.json", []
    first, second = Lock(path), Lock(path)
    first.acquire()

    def wait() -> None:
        second.acquire(poll_seconds=0.01)
        order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    order.append("first ends")
    first.release()
    thread.join(timeout=5)
    assert order == ["first ends", "second"]
    second.release()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    write_lock(path, pid=ended_process())
    lock = Lock(path)
    lock.acquire(poll_seconds=0.01)
    assert json.loads(path.read_text())["token"] == lock.owner["token"]


def test_lock_of_another_host_is_taken_over_once_it_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock.json"
    write_lock(path, host="elsewhere")
    lock = Lock(path)
    assert not lock._is_dead(lock._read())
    past = time.time() - module.STALE_SECONDS - 1
    os.utime(path, (past, past))
    lock.acquire(poll_seconds=0.01)
    assert lock._read()["token"] == lock.owner["token"]


def test_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    lock = Lock(tmp_path / "lock.json")
    lock.acquire()
    os.utime(lock.path, (0, 0))
    time.sleep(0.3)
    assert lock.path.stat().st_mtime > 0
    lock.release()


def test_release_leaves_the_lock_of_who_took_over(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock.json")
    lock.acquire()
    write_lock(lock.path, token="new")
    lock.release()
    assert json.loads(lock.path.read_text())["token"] == "new"


def _count(path: Path, counter: Path, rounds: int) -> None:
    for _ in range(rounds):
        lock = Lock(path)
        lock.acquire(poll_seconds=0.001)
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
        lock.release()


def test_only_one_process_is_inside_at_a_time(tmp_path: Path) -> None:
    """Each process adds one by reading and writing back: two inside at once would lose counts.

    A dead owner's lock is there at the start.
    """
    path, counter = tmp_path / "folder/lock.json", tmp_path / "counter"
    path.parent.mkdir()
    counter.write_text("0")
    write_lock(path, pid=ended_process())
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(path, counter, 15)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert counter.read_text() == "60"
