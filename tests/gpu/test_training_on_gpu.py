"""Training and latent scaling give the same numbers on a GPU and on the CPU, up to the rounding of sums."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import (
    batchtopk_settings,
    l1_settings,
    paired,
    planted_activations,
    random_crosscoder,
)
from helpers_newer import OWN, newer_settings
from torch import Tensor

from crossdiff.activations.pairs import Block, PairedActivations
from crossdiff.config import Bootstrap, CrosscoderSettings
from crossdiff.crosscoders import kernels
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.trainer import Training, train
from crossdiff.device import device
from crossdiff.latents.scaling import latent_scaling

pytestmark = pytest.mark.gpu

WIDTH, STEPS = 32, 20
CPU = torch.device("cpu")
COMMON = {"tokens": 64 * STEPS, "learning_rate": 1e-3, "latents": 128, "precision": "float32"}
SETTINGS = {
    "l1": l1_settings(**COMMON),
    "batchtopk": batchtopk_settings(**COMMON, threshold_start_step=5),
    # Latents are dead from the third step on, so the auxiliary loss has work.
    "dead": batchtopk_settings(**COMMON, threshold_start_step=5, k=2, dead_after_tokens=128),
    "decoupled": batchtopk_settings(**COMMON, threshold_start_step=5, code_normalisation="decoupled"),
}
SETTINGS |= {
    name: newer_settings(name, **COMMON, **({"threshold_start_step": 5} if "k" in own else {}))
    for name, own in OWN.items()
}


@pytest.fixture(autouse=True, params=["triton", "plain"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.SETTING, request.param)


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> PairedActivations:
    """Two shards of 3,000 token pairs in which there is something to find."""
    return paired(tmp_path_factory.mktemp("caches"), *planted_activations(6000, WIDTH).split(3000))


def moved(
    activations: PairedActivations, settings: CrosscoderSettings, where: torch.device
) -> dict[str, Tensor]:
    """Give how far each weight moved from its start, on the CPU."""
    training = Training(activations, settings, 0, where)
    start = {name: weight.detach().clone() for name, weight in training.crosscoder.named_parameters()}
    training.run(activations)
    return {
        name: (weight.detach() - start[name]).cpu() for name, weight in training.crosscoder.named_parameters()
    }


def far_apart(one: Tensor, other: Tensor) -> float:
    """Give the distance as a share of the length."""
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_move_as_on_the_cpu(activations: PairedActivations, name: str) -> None:
    on_cpu, on_gpu = (moved(activations, SETTINGS[name], where) for where in (CPU, device()))
    for weight, movement in on_cpu.items():
        assert movement.norm() > 0, weight
        assert far_apart(movement, on_gpu[weight]) < 0.01, weight


@pytest.mark.parametrize("loss", ["l1", "batchtopk"])
def test_bfloat16_products_learn_as_much(activations: PairedActivations, tmp_path: Path, loss: str) -> None:
    found = {}
    for precision, where in (("float32", CPU), ("bfloat16", device())):
        settings = SETTINGS[loss].model_copy(
            update={"tokens": 64 * 300, "learning_rate": 1e-2, "precision": precision, "log_every": 100}
        )
        log = tmp_path / f"{precision}.csv"
        train(activations, settings, 0, where, log)
        *_, last = log.read_text().splitlines()
        found[precision] = dict(
            zip(log.read_text().splitlines()[0].split(","), map(float, last.split(",")), strict=True)
        )
    for model in ("fve_base", "fve_chat"):
        assert found["bfloat16"][model] > 0.5
        assert found["bfloat16"][model] == pytest.approx(found["float32"][model], abs=0.03)


@pytest.mark.parametrize("name", ["l1", "batchtopk", "dead"])
def test_resumed_training_goes_on_as_if_never_stopped(
    activations: PairedActivations, tmp_path: Path, name: str
) -> None:
    settings = SETTINGS[name]
    whole, stopped, resumed = (Training(activations, settings, 0, device()) for _ in range(3))
    start = {name: weight.detach().clone() for name, weight in whole.crosscoder.named_parameters()}
    whole.run(activations)
    for batch in itertools.islice(
        activations.shuffled_batches(settings.batch, settings.buffer_tokens, 0), STEPS // 2
    ):
        stopped.step(batch)
    with Checkpoint(tmp_path / "state.safetensors", "same") as checkpoint:
        checkpoint.write(*stopped.state())
        resumed.resume(checkpoint)
    assert resumed.done == STEPS // 2
    resumed.run(activations)
    for weight, before in start.items():
        movements = [
            training.crosscoder.get_parameter(weight).detach() - before for training in (whole, resumed)
        ]
        assert far_apart(*movements) < 0.01, weight


def test_latent_scaling_gives_the_same_table() -> None:
    raw = torch.randn(4096, 2, WIDTH, generator=torch.Generator().manual_seed(2)).bfloat16()
    blocks = [
        Block(part, np.arange(len(part)) // 50 + 100 * number, 0, np.arange(len(part)))
        for number, part in enumerate(raw.split(512))
    ]
    tables = []
    for where in (CPU, device()):
        crosscoder = random_crosscoder(WIDTH, 64, seed=1)
        crosscoder.threshold.fill_(1.0)
        crosscoder = crosscoder.requires_grad_(False).to(where)
        tables.append(
            latent_scaling(crosscoder, encode(crosscoder, blocks), len(raw), Bootstrap(blocks=10, samples=20))
        )
    on_cpu, on_gpu = tables
    assert list(on_cpu.columns) == list(on_gpu.columns)
    for column in on_cpu.select_dtypes("number").columns:
        np.testing.assert_allclose(
            on_gpu[column], on_cpu[column], rtol=2e-3, atol=2e-3, equal_nan=True, err_msg=column
        )
