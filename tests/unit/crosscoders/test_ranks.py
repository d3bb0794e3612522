"""A training in several processes is that of one: the same losses, threshold and counters, to rounding."""

import csv
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings, planted_activations, rule_inputs
from helpers_newer import OWN, newer_settings
from helpers_paths import on_path

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders import ranks
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.parallel import train_on_ranks
from crossdiff.crosscoders.trainer import train
from crossdiff.errors import UserError

WIDTH, STEPS = 12, 30
CPU = torch.device("cpu")
COMMON = {"tokens": 64 * STEPS, "learning_rate": 1e-2, "log_every": 1, "precision": "float32"}
TOPK = COMMON | {"k": 2, "threshold_start_step": 10, "dead_after_tokens": 200}
SETTINGS = {
    "l1": l1_settings(init_norm=0.1, **COMMON),
    "batchtopk": batchtopk_settings(threshold_decay=0.5, k_max=8, k_annealing_steps=8, auxiliary_k=3, **TOPK),
    "decoupled": batchtopk_settings(code_normalisation="decoupled", **TOPK),
}
NEWER = {
    name: newer_settings(name, init_norm=0.5, **(TOPK if "k" in own else COMMON)) for name, own in OWN.items()
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return rule_inputs(tmp_path_factory.mktemp("caches"), *planted_activations(900, WIDTH).split(450))


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("l1", "cpu"),
        pytest.param("l1", "kernels", marks=pytest.mark.slow),
        ("batchtopk", "cpu"),
        pytest.param("batchtopk", "kernels", marks=pytest.mark.slow),
        pytest.param("decoupled", "cpu", marks=pytest.mark.slow),
        pytest.param("decoupled", "kernels", marks=pytest.mark.slow),
        *(pytest.param(name, "cpu", marks=pytest.mark.slow) for name in NEWER),
    ],
)
def test_two_processes_train_as_one(inputs: dict[str, Any], tmp_path: Path, name: str, path: str) -> None:
    settings = (SETTINGS | NEWER)[name]
    activations = PairedActivations.of(inputs)
    state = tmp_path / "state.safetensors"
    one = train(activations, settings, 0, CPU, tmp_path / "one.csv")
    with on_path(path):
        train_on_ranks(2, inputs, settings, 0, state, "same", str(tmp_path / "log.csv"))
    with Checkpoint(state, "same") as checkpoint:
        assert checkpoint.read()[1]["done"] == STEPS
        two = train(activations, settings, 0, CPU, tmp_path / "two.csv", checkpoint=checkpoint)
    for alone, together in zip(rows(tmp_path / "one.csv"), rows(tmp_path / "two.csv"), strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5), alone["step"]
        assert together == pytest.approx(alone, rel=1e-3, abs=2e-4, nan_ok=True), alone["step"]
    for key, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)
    if "batchtopk" in name:
        assert max(row["auxiliary_loss"] for row in rows(tmp_path / "one.csv")) > 0  # there were dead latents
        assert one.threshold > 0


def test_one_process_gives_back_what_it_is_given() -> None:
    values, module = torch.arange(6.0).view(3, 2), torch.nn.Linear(2, 1)
    module(values).sum().backward()
    gradient = module.weight.grad
    ranks.average_gradients(module)
    rows, mine = ranks.gathered(values)
    assert module.weight.grad is gradient
    assert rows is values is ranks.total(values) is ranks.mean(values) is ranks.least(values)
    assert torch.equal(values[mine], values)


def test_batch_that_can_not_be_divided(inputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crosscoders: batch: found 64, allowed on 3 GPUs: multiples of 3"):
        train_on_ranks(3, inputs, SETTINGS["l1"], 0, tmp_path / "state", "same", str(tmp_path / "log.csv"))


@pytest.mark.slow
def test_training_that_fails_in_its_processes_fails(
    inputs: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS["l1"].model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match="one of 2 processes ended early"):
        train_on_ranks(
            2, inputs, settings, 0, tmp_path / "state.safetensors", "same", str(tmp_path / "log.csv")
        )
    assert "lower learning_rate" in capfd.readouterr().err
    assert not (tmp_path / "state.lock").exists()


@pytest.mark.slow
def test_terminated_processes_leave_a_checkpoint_and_go_on_from_it(
    inputs: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """This happens at the end of a time limit. The result is the same as without an interruption."""
    settings = SETTINGS["batchtopk"].model_copy(update={"tokens": 64 * 2000, "log_every": 100})
    arguments = (2, inputs, settings, 0)

    def terminate() -> None:
        said, last = "", time.monotonic() + 300
        # Before the first step there is no checkpoint to continue from.
        while "step 100 of 2000" not in said and time.monotonic() < last:
            said += capfd.readouterr().err
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(UserError, match="one of 2 processes ended early"):
        train_on_ranks(*arguments, tmp_path / "state.safetensors", "same", str(tmp_path / "log.csv"))
    thread.join()
    assert 0 < Checkpoint(tmp_path / "state.safetensors", "same").read()[1]["done"] < settings.steps
    for state in ("state", "whole"):
        train_on_ranks(*arguments, tmp_path / f"{state}.safetensors", "same", str(tmp_path / "log.csv"))
    (resumed, values), (whole, expected) = (
        Checkpoint(tmp_path / f"{state}.safetensors", "same").read() for state in ("state", "whole")
    )
    assert values == expected
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
