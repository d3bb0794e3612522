"""Compare the Triton kernels on a GPU with dense products in float64, and whole steps with the plain path."""

import itertools

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings
from helpers_paths import assert_selects_exactly
from torch import Tensor

from crossdiff.activations.pairs import Summary
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders import kernels
from crossdiff.crosscoders.optimiser import KernelAdam
from crossdiff.crosscoders.sparse import Active, dot_products, rows_per_latent, weighted_rows
from crossdiff.crosscoders.trainer import Training

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.SETTING, "triton")


class Given:
    """Has what a training asks of paired caches."""

    def __init__(self, d_model: int) -> None:
        self.d_model, self.layer, self.tokens = d_model, 0, 10**9
        self.summary = Summary(0, 0, None, [1.0, 1.0], [[0.0] * d_model] * 2, [1.0, 1.0], 1, 0, 0)


def random_codes(rows: int, latents: int, kind: str) -> Tensor:
    """(rows, latents) float32: a few per row, some latents in most rows ("skewed"), or none at all."""
    generator = torch.Generator(CUDA).manual_seed(0)
    density = torch.full((latents,), 0.01, device=CUDA)
    if kind == "skewed":
        density[::97] = 0.9
    if kind == "none":
        density.zero_()
    codes = torch.rand(rows, latents, device=CUDA, generator=generator) + 0.1
    return codes * (torch.rand(rows, latents, device=CUDA, generator=generator) < density)


@pytest.mark.parametrize("kind", ["few", "skewed", "none"])
@pytest.mark.parametrize("width", [4608, 1152, 130, 6])
def test_products_are_the_dense_ones(kind: str, width: int) -> None:
    codes = random_codes(300, 2000, kind)
    weight, x = torch.randn(2000, width, device=CUDA), torch.randn(300, width, device=CUDA)
    active = Active.of(codes)
    close = {"rtol": 1e-5, "atol": 1e-5 * width**0.5}  # sums of that many terms
    torch.testing.assert_close(
        weighted_rows(weight, active), (codes.double() @ weight.double()).float(), **close
    )
    torch.testing.assert_close(rows_per_latent(active, x), (codes.double().T @ x.double()).float(), **close)
    expected = (x.double() @ weight.double().T).float()[active.rows, active.latents]
    torch.testing.assert_close(dot_products(weight, active.places, x), expected, **close)
    half = slice(width // 2)  # rows that do not follow each other, as those of one model
    expected = (x[:, half].double() @ weight[:, half].double().T).float()[active.rows, active.latents]
    torch.testing.assert_close(dot_products(weight[:, half], active.places, x[:, half]), expected, **close)


@pytest.mark.parametrize("kind", ["few directions", "terms that cancel", "nearly equal", "outlier"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_selection_is_exact_where_products_mislead(kind: str, precision: str) -> None:
    for seed in range(4):
        assert_selects_exactly(kind, precision, seed, (512, 3000, 256), (64, 10_000, 100_000), "cuda")


SETTINGS = {
    "batch": 256,
    "latents": 1000,
    "tokens": 10**6,
    "precision": "float32",
    "learning_rate": 1e-3,
    "warmup_steps": 0,
}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            batchtopk_settings(k=5, dead_after_tokens=768, auxiliary_k=20, **SETTINGS), id="batchtopk"
        ),
        pytest.param(batchtopk_settings(k=5, code_normalisation="decoupled", **SETTINGS), id="decoupled"),
        pytest.param(l1_settings(init_norm=0.1, **SETTINGS), id="l1"),
    ],
)
def test_twenty_steps_are_those_of_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, settings: CrosscoderSettings
) -> None:
    movements = []
    for path in ("triton", "plain"):
        monkeypatch.setenv(kernels.SETTING, path)
        training = Training(Given(96), settings, 0, CUDA)
        assert isinstance(training.optimiser, KernelAdam) == (path == "triton")
        start = {name: weight.detach().clone() for name, weight in training.crosscoder.named_parameters()}
        for step in range(20):
            training.step(torch.randn(256, 2, 96, generator=torch.Generator().manual_seed(step)))
        movements.append(
            {name: weight.detach() - start[name] for name, weight in training.crosscoder.named_parameters()}
        )
    for name, movement in movements[1].items():
        assert movement.norm() > 0
        assert (movements[0][name] - movement).norm() / movement.norm() < 2e-5, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_of_the_papers_shape_is_that_of_the_plain_path(precision: str) -> None:
    """The comparison that every training starts with."""
    if torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB")
    settings = batchtopk_settings(
        k=100, batch=2048, latents=73_728, tokens=10**9, precision=precision, init_norm=1.0
    )
    training = Training(Given(2304), settings, 0, CUDA)
    for _ in itertools.repeat(None, 2):
        training.step(torch.randn(2048, 2, 2304, device=CUDA))
    assert training.crosscoder.decoder.isfinite().all()
