"""Selection: exactly what a full sort of the dense codes chooses, whatever finds the candidates."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers_paths import PATHS, assert_selects_exactly, on_path
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.crosscoders import kernels, selection
from crossdiff.crosscoders.selection import Encoder, above, largest

ROWS = {
    "random": lambda rng, n, f: rng.normal(size=(n, f)),
    "constant": lambda rng, n, f: np.full((n, f), 0.5),
    "all zero": lambda rng, n, f: np.zeros((n, f)),
    "negative": lambda rng, n, f: -rng.random((n, f)),
    "mostly zero": lambda rng, n, f: rng.random((n, f)) * (rng.random((n, f)) < 0.02),
    "few values": lambda rng, n, f: rng.integers(-1, 3, (n, f)),
    "strong at the end": lambda rng, n, f: rng.random((n, f)) * (1 + 9 * (np.arange(n) > n / 2))[:, None],
    # The guess from the first rows is too high.
    "weak at the end": lambda rng, n, f: rng.random((n, f)) * (1 + 9 * (np.arange(n) < n / 8))[:, None],
    "one latent": lambda rng, n, f: rng.random((n, f)) * (np.arange(f) == 0),
    "heavy tail": lambda rng, n, f: rng.standard_cauchy((n, f)),
}


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Let a few hundred rows be several blocks, the first of which may mislead the guess."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "BLOCK_ROWS", 32)
        patch.setattr(selection, "GUESS_SAMPLE", 512)
        yield


def encoder_of(codes: Tensor, bias: Tensor | None = None) -> tuple[Encoder, Tensor]:
    """Make an encoder and activations whose codes are ``codes`` (batch, latents).

    They are exact where ``bias`` (latents,) was added to them last: each row reads its own column of the
    weights.
    """
    bias = torch.zeros(codes.shape[1]) if bias is None else bias
    return Encoder((codes - bias).T.contiguous(), bias), torch.eye(len(codes))


def random_codes_and_bias(
    rng: np.random.Generator, kind: str, rows: int, latents: int
) -> tuple[Tensor, Tensor]:
    bias = torch.from_numpy(rng.choice([-3.0, -0.5, 0.0, 0.5, 3.0], latents)).float()
    codes = torch.from_numpy(ROWS[kind](rng, rows, latents)).float()
    return (codes - bias) + bias, bias


EXAMPLES = {"cpu": 150, "device": 150, "kernels": 15}  # the kernels are interpreted


@pytest.mark.parametrize("path", PATHS)
def test_largest_equals_a_full_sort(path: str) -> None:
    @given(
        kind=st.sampled_from(sorted(ROWS)),
        rows=st.integers(1, 300 if path != "kernels" else 40),
        latents=st.integers(1, 40),
        share=st.floats(0, 1.1),
        columns=st.integers(1, 2),
        seed=st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=EXAMPLES[path], deadline=None)
    def check(kind: str, rows: int, latents: int, share: float, columns: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        codes, bias = random_codes_and_bias(rng, kind, rows, latents)
        weights = torch.from_numpy(rng.integers(0, 4, (latents, columns)) / 2).float()
        count = int(share * rows * latents)
        active, chosen, smallest = largest(*encoder_of(codes, bias), weights, count)
        positive = codes.relu()
        for column in range(columns):
            ranked = (positive * weights[:, column]).flatten().sort(descending=True).values[:count]
            ranked = ranked[ranked > 0]
            own = active.keep(chosen[column])
            # Values, not entries: ties may be broken either way.
            assert torch.equal(
                (own.values * weights[own.latents, column]).sort(descending=True).values, ranked
            )
            assert torch.equal(own.values, codes[own.rows, own.latents])
            assert smallest[column] == (ranked[-1] if len(ranked) else torch.inf)
        assert chosen.any(dim=0).all()
        order = active.rows * latents + active.latents
        assert (order.diff() > 0).all()

    with on_path(path):
        check()


@pytest.mark.parametrize("path", ["device", "kernels"])
@pytest.mark.parametrize("kind", ["few directions", "terms that cancel", "nearly equal", "outlier"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_selection_on_a_device_is_exact_where_products_mislead(path: str, kind: str, precision: str) -> None:
    for seed in range(4 if path == "device" else 1):
        with on_path(path):
            assert_selects_exactly(
                kind, precision, seed, (48, 70, 24) if path == "device" else (16, 40, 24), (5, 100)
            )


def test_the_kernel_path_is_the_kernels() -> None:
    """The tests above would pass without them."""
    with on_path("kernels"):
        assert kernels.of(torch.zeros(1)) is not None
        assert kernels.of(torch.zeros(1, dtype=torch.float64)) is None
    with on_path("device"):
        assert kernels.of(torch.zeros(1)) is None


@given(
    kind=st.sampled_from(sorted(ROWS)),
    rows=st.integers(1, 300),
    latents=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_above_gives_the_positive_entries_over_the_bounds(
    kind: str, rows: int, latents: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes, bias = random_codes_and_bias(rng, kind, rows, latents)
    bounds = torch.from_numpy(rng.choice([-1.0, 0.0, 0.3, 1.0, np.inf], latents)).float()
    found = above(*encoder_of(codes, bias), bounds).dense()
    assert torch.equal(found, torch.where(codes > bounds.clamp_min(0), codes, 0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_products_choose_what_float32_products_choose(
    monkeypatch: pytest.MonkeyPatch, native: bool, path: str
) -> None:
    """The product only finds candidates. Values and ranks are float32, so only rare entries can differ."""
    monkeypatch.setattr(selection, "multiplies_bfloat16", lambda _device: native)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((600, 64), (500, 64), (500,)))
    exact, low = (Encoder(weight, bias, precision) for precision in ("float32", "bfloat16"))
    weights = torch.rand(500, 1, generator=generator) + 0.5
    expected = largest(exact, x, weights, 6000).active.dense()
    with on_path(path):
        found = largest(low, x, weights, 6000).active.dense()
    assert ((found > 0) != (expected > 0)).sum() <= 2
    both = (found > 0) & (expected > 0)
    torch.testing.assert_close(found[both], expected[both])
    bounds = torch.full((500,), 3.0)
    torch.testing.assert_close(above(low, x, bounds).dense(), above(exact, x, bounds).dense())


def test_sparse_is_judged_by_the_share_of_positive_entries() -> None:
    for active_latents, expected in ((0, True), (10, False)):
        codes = torch.zeros(100, 50)
        codes[:, :active_latents] = 1
        encoder, x = encoder_of(codes)
        assert selection.is_sparse(encoder, next(encoder.products(x))) == expected
