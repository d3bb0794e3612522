"""Sparse codes: the same numbers and gradients as the dense products."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.crosscoders import sparse
from crossdiff.crosscoders.sparse import Active, Encoder, above, dot_products, encoded, largest, rows_per_latent, weighted_rows

BATCH, LATENTS, WIDTH = 12, 9, 5
EMPTY_ROWS, EMPTY_LATENTS = [0, 4, 5, 11], [0, 3, 8]


def random_codes(density: float = 0.4) -> Tensor:
    """(BATCH, LATENTS) float64, with empty rows and latents at both ends and in between."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(BATCH, LATENTS, generator=generator, dtype=torch.float64) + 0.1
    codes *= torch.rand(codes.shape, generator=generator) < density
    codes[EMPTY_ROWS] = 0
    codes[:, EMPTY_LATENTS] = 0
    return codes


CODES = [pytest.param(random_codes(), id="some"), pytest.param(torch.zeros(BATCH, LATENTS, dtype=torch.float64), id="none active")]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


# Entries


@pytest.mark.parametrize("codes", CODES)
def test_active_entries_are_the_positive_ones_in_order_of_rows(codes: Tensor) -> None:
    active = Active.of(codes)
    rows, latents = np.nonzero(codes.numpy())
    assert active.rows.tolist() == rows.tolist()
    assert active.latents.tolist() == latents.tolist()
    assert active.values.tolist() == codes[rows, latents].tolist()
    assert active.shape == (BATCH, LATENTS)


@pytest.mark.parametrize("codes", CODES)
def test_dense_gives_the_codes_back(codes: Tensor) -> None:
    assert torch.equal(Active.of(codes).dense(), codes)


@pytest.mark.parametrize("codes", CODES)
def test_kept_entries_are_those_of_the_mask(codes: Tensor) -> None:
    active = Active.of(codes)
    kept = active.keep(active.latents < 5)
    assert torch.equal(kept.dense(), codes * (torch.arange(LATENTS) < 5))


@pytest.mark.parametrize("codes", CODES)
def test_offsets_point_to_the_first_entry_of_every_row(codes: Tensor) -> None:
    per_row = (codes > 0).sum(dim=1)
    assert Active.of(codes).places.offsets.tolist() == [int(per_row[:row].sum()) for row in range(BATCH)]


@pytest.mark.parametrize("codes", CODES)
def test_sum_per_latent_is_the_column_sum(codes: Tensor) -> None:
    active = Active.of(codes)
    torch.testing.assert_close(active.sum_per_latent(active.values), codes.sum(dim=0))
    assert active.count_per_latent().tolist() == (codes > 0).sum(dim=0).tolist()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("chosen", [[], [1, 5, 6], list(range(LATENTS))])
def test_entries_of_chosen_latents_are_the_masked_codes(codes: Tensor, chosen: list[int]) -> None:
    mask = torch.zeros(LATENTS, dtype=torch.bool)
    mask[torch.tensor(chosen, dtype=torch.long)] = True
    assert torch.equal(Active.of(codes).of_latents(mask).dense(), codes * mask)


# Products and their gradients


@pytest.mark.parametrize("codes", CODES)
def test_weighted_rows_is_the_dense_product_with_its_gradients(codes: Tensor) -> None:
    weight, dense = leaf(LATENTS, WIDTH), codes.clone().requires_grad_()
    out_gradient = leaf(BATCH, WIDTH).detach()
    expected = dense @ weight
    expected_weight, expected_codes = torch.autograd.grad(expected, (weight, dense), out_gradient)

    active = Active.of(codes)
    values = active.values.requires_grad_()
    found = weighted_rows(weight, active._replace(values=values))
    found_weight, found_values = torch.autograd.grad(found, (weight, values), out_gradient)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_weight, expected_weight)
    torch.testing.assert_close(found_values, expected_codes[active.rows, active.latents])


@pytest.mark.parametrize("codes", CODES)
def test_rows_per_latent_is_the_transposed_product(codes: Tensor) -> None:
    x, active = leaf(BATCH, WIDTH).detach(), Active.of(codes)
    torch.testing.assert_close(rows_per_latent(active, x), codes.T @ x)


@pytest.mark.parametrize("codes", CODES)
def test_dot_products_are_those_of_the_active_pairs(codes: Tensor) -> None:
    x, weight, active = leaf(BATCH, WIDTH).detach(), leaf(LATENTS, WIDTH), Active.of(codes)
    strided = torch.stack([x, x], dim=2)[..., 1]  # not contiguous
    for rows in (x, strided):
        torch.testing.assert_close(dot_products(weight, active.places, rows), (rows @ weight.detach().T)[active.rows, active.latents])


def test_rows_per_latent_takes_other_values_than_the_codes() -> None:
    codes, x = random_codes(), leaf(BATCH, WIDTH).detach()
    active = Active.of(codes)
    torch.testing.assert_close(rows_per_latent(active._replace(values=active.values.square()), x), codes.square().T @ x)


@pytest.mark.parametrize("mask", CODES)
def test_encoded_sends_gradients_to_the_active_entries_of_the_encoder_alone(mask: Tensor) -> None:
    x, encoder, bias = leaf(BATCH, WIDTH).detach(), leaf(LATENTS, WIDTH), leaf(LATENTS)
    out_gradient = leaf(BATCH, LATENTS).detach()
    dense = (x @ encoder.T + bias).relu() * (mask > 0)  # some of the entries have value 0
    expected_encoder, expected_bias = torch.autograd.grad(dense, (encoder, bias), out_gradient)

    chosen = Active.of(mask)
    given = chosen._replace(values=dense.detach()[chosen.rows, chosen.latents])
    active = encoded(given, Encoder(encoder, bias), x)
    found_encoder, found_bias = torch.autograd.grad(active.values, (encoder, bias), out_gradient[chosen.rows, chosen.latents])
    torch.testing.assert_close(active.dense(), dense)
    torch.testing.assert_close(found_encoder, expected_encoder)
    torch.testing.assert_close(found_bias, expected_bias)


# Selection

ROWS = {
    "random": lambda rng, n, f: rng.normal(size=(n, f)),
    "constant": lambda rng, n, f: np.full((n, f), 0.5),
    "all zero": lambda rng, n, f: np.zeros((n, f)),
    "negative": lambda rng, n, f: -rng.random((n, f)),
    "mostly zero": lambda rng, n, f: rng.random((n, f)) * (rng.random((n, f)) < 0.02),
    "few values": lambda rng, n, f: rng.integers(-1, 3, (n, f)),
    "strong at the end": lambda rng, n, f: rng.random((n, f)) * (1 + 9 * (np.arange(n) > n / 2))[:, None],
    "weak at the end": lambda rng, n, f: rng.random((n, f)) * (1 + 9 * (np.arange(n) < n / 8))[:, None],  # the guess is too high
    "one latent": lambda rng, n, f: rng.random((n, f)) * (np.arange(f) == 0),
    "heavy tail": lambda rng, n, f: rng.standard_cauchy((n, f)),
}


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """So that a few hundred rows are several blocks, and the first of them a sample that may mislead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "BLOCK_ROWS", 32)
        patch.setattr(sparse, "GUESS_SAMPLE", 512)
        yield


def encoder_of(codes: Tensor, bias: Tensor | None = None) -> tuple[Encoder, Tensor]:
    """An encoder and activations whose codes are ``codes`` (batch, latents), exactly where the ``bias`` (latents,) was added to them last:
    each row reads its own column of the weights."""
    bias = torch.zeros(codes.shape[1]) if bias is None else bias
    return Encoder((codes - bias).T.contiguous(), bias), torch.eye(len(codes))


def random_codes_and_bias(rng: np.random.Generator, kind: str, rows: int, latents: int) -> tuple[Tensor, Tensor]:
    bias = torch.from_numpy(rng.choice([-3.0, -0.5, 0.0, 0.5, 3.0], latents)).float()
    codes = torch.from_numpy(ROWS[kind](rng, rows, latents)).float()
    return (codes - bias) + bias, bias


@contextmanager
def static_shapes(wanted: bool = True) -> Iterator[None]:
    """As on a device that must not be asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "is_synchronous", lambda _device: not wanted)
        yield


@pytest.mark.parametrize("static", [False, True], ids=["asks the device", "static shapes"])
@given(
    kind=st.sampled_from(sorted(ROWS)),
    rows=st.integers(1, 300),
    latents=st.integers(1, 40),
    share=st.floats(0, 1.1),
    columns=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_largest_equals_a_full_sort(static: bool, kind: str, rows: int, latents: int, share: float, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, bias = random_codes_and_bias(rng, kind, rows, latents)
    weights = torch.from_numpy(rng.integers(0, 4, (latents, columns)) / 2).float()
    count = max(int(static), int(share * rows * latents))
    with static_shapes(static):
        active, chosen, smallest, exact = largest(*encoder_of(codes, bias), weights, count)
    positive, clear = codes.relu(), True  # clear: that no other entry is larger
    for column in range(columns):
        scaled = positive * weights[:, column]
        ranked = scaled.flatten().sort(descending=True).values
        clear &= 2 * count * columns >= len(ranked) or (columns == 1 and bool(ranked[2 * count - 1] + 2e-3 < 0.999 * ranked[count - 1]))
        ranked = ranked[:count][ranked[:count] > 0]
        if not exact:
            continue
        own = active.keep(chosen[column])
        assert torch.equal((own.values * weights[own.latents, column]).sort(descending=True).values, ranked)  # ties and all
        assert torch.equal(own.values, codes[own.rows, own.latents])
        assert smallest[column] == (ranked[-1] if len(ranked) else torch.inf)
    assert exact or (static and not clear)
    assert torch.equal(chosen.any(dim=0), active.values > 0)
    assert static or chosen.any(dim=0).all()
    order = active.rows * latents + active.latents
    assert (order.diff() > 0).all()


@given(kind=st.sampled_from(sorted(ROWS)), rows=st.integers(1, 300), latents=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_above_gives_the_positive_entries_over_the_bounds(kind: str, rows: int, latents: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, bias = random_codes_and_bias(rng, kind, rows, latents)
    bounds = torch.from_numpy(rng.choice([-1.0, 0.0, 0.3, 1.0, np.inf], latents)).float()
    found = above(*encoder_of(codes, bias), bounds).dense()
    assert torch.equal(found, torch.where(codes > bounds.clamp_min(0), codes, 0))


@pytest.mark.parametrize("static", [False, True], ids=["asks the device", "static shapes"])
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_products_choose_what_float32_products_choose(monkeypatch: pytest.MonkeyPatch, native: bool, static: bool) -> None:
    """The product only finds candidates; values and ranks are float32, so the choice can differ by a rare entry only."""
    monkeypatch.setattr(sparse, "multiplies_bfloat16", lambda _device: native)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((600, 64), (500, 64), (500,)))
    exact, low = (Encoder(weight, bias, precision) for precision in ("float32", "bfloat16"))
    weights = torch.rand(500, 1, generator=generator) + 0.5
    expected = largest(exact, x, weights, 6000).active.dense()
    with static_shapes(static):
        selection = largest(low, x, weights, 6000)
    assert selection.exact
    found = selection.active.dense()
    assert ((found > 0) != (expected > 0)).sum() <= 2
    both = (found > 0) & (expected > 0)
    assert torch.equal(found[both], expected[both])
    bounds = torch.full((500,), 3.0)
    assert torch.equal(above(low, x, bounds).dense(), above(exact, x, bounds).dense())


def test_static_selection_of_one_column_has_as_many_entries_as_are_wanted() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(300, 40, generator=generator)
    for columns, entries in ((1, 500), (2, 2000)):
        with static_shapes():
            found = largest(*encoder_of(codes), torch.rand(40, columns, generator=generator) + 0.5, 500)
        assert len(found.active.values) == found.chosen.shape[1] == entries
        assert found.chosen.sum(dim=1).tolist() == columns * [500]


@pytest.mark.parametrize(
    ("other", "bias", "certain"),
    [(0.99985, 0.0, True), (0.99995, 0.0, False), (0.9995, 3.0, True), (0.9997, 3.0, False), (1.0, 0.0, False)],
)
def test_static_selection_is_certain_where_all_others_are_smaller_by_more_than_the_error_of_products(
    other: float, bias: float, certain: bool
) -> None:
    codes = torch.full((100, 20), other)
    codes[::10, 3] = 1
    for weights in (torch.full((20, 1), 2.0), torch.full((20, 2), 2.0)):
        with static_shapes():
            assert largest(*encoder_of(codes, torch.full((20,), bias)), weights, 10).exact == certain
        assert largest(*encoder_of(codes, torch.full((20,), bias)), weights, 10).exact


def test_static_selection_that_missed_an_entry_is_not_certain() -> None:
    """In bfloat16 all of these are 1, so that the candidates are some of them."""
    codes = 1 + torch.rand(100, 20, generator=torch.Generator().manual_seed(0)) / 1000
    encoder, x = encoder_of(codes)
    with static_shapes():
        found = largest(Encoder(encoder.weight, encoder.bias, "bfloat16"), x, torch.ones(20, 1), 10)
    assert found.smallest < codes.flatten().topk(10).values.min()
    assert not found.exact


def test_static_selection_of_too_few_positive_entries_is_certain_where_all_were_candidates() -> None:
    for positive, bias, certain in ((15, 0.0, True), (20, 0.0, True), (5, 1.0, False), (0, 0.0, True)):
        codes = torch.zeros(100, 20)
        codes[:positive, 7] = 1
        with static_shapes():
            found = largest(*encoder_of(codes, torch.full((20,), bias)), torch.ones(20, 1), 20)
        assert found.exact == certain  # with a bias, products do not tell 0 from what is barely positive
        assert found.chosen.sum() == positive


def test_sparse_is_judged_by_the_share_of_positive_entries() -> None:
    for active_latents, expected in ((0, True), (10, False)):
        codes = torch.zeros(100, 50)
        codes[:, :active_latents] = 1
        encoder, x = encoder_of(codes)
        assert sparse.is_sparse(encoder, next(encoder.products(x))) == expected
