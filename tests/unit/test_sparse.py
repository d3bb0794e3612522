"""Sparse codes: the same numbers and gradients as the dense products."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.crosscoders.sparse import Active, encoded, largest, rows_per_latent, weighted_rows

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


def test_entries_at_chosen_places_keep_zeros_too() -> None:
    codes = random_codes()
    active = Active.at(torch.tensor([1, LATENTS, LATENTS + 2, BATCH * LATENTS - 1]), codes)
    assert active.rows.tolist() == [0, 1, 1, BATCH - 1]
    assert active.latents.tolist() == [1, 0, 2, LATENTS - 1]
    assert active.values.tolist() == [0, 0, codes[1, 2].item(), 0]


@pytest.mark.parametrize("codes", CODES)
def test_offsets_point_to_the_first_entry_of_every_row(codes: Tensor) -> None:
    per_row = (codes > 0).sum(dim=1)
    assert Active.of(codes).offsets().tolist() == [int(per_row[:row].sum()) for row in range(BATCH)]


@pytest.mark.parametrize("codes", CODES)
def test_sum_per_latent_is_the_column_sum(codes: Tensor) -> None:
    active = Active.of(codes)
    torch.testing.assert_close(active.sum_per_latent(active.values), codes.sum(dim=0))
    assert active.sum_per_latent(torch.ones_like(active.rows)).tolist() == (codes > 0).sum(dim=0).tolist()


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
def test_rows_per_latent_is_the_transposed_product_with_its_gradients(codes: Tensor) -> None:
    x, dense = leaf(BATCH, WIDTH), codes.clone().requires_grad_()
    out_gradient = leaf(LATENTS, WIDTH).detach()
    expected = dense.T @ x
    expected_x, expected_codes = torch.autograd.grad(expected, (x, dense), out_gradient)

    active = Active.of(codes)
    values = active.values.requires_grad_()
    found = rows_per_latent(active, values, x)
    found_x, found_values = torch.autograd.grad(found, (x, values), out_gradient)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_x, expected_x)
    torch.testing.assert_close(found_values, expected_codes[active.rows, active.latents])


def test_rows_per_latent_takes_other_values_than_the_codes() -> None:
    codes, x = random_codes(), leaf(BATCH, WIDTH).detach()
    active = Active.of(codes)
    torch.testing.assert_close(rows_per_latent(active, active.values.square(), x), codes.square().T @ x)


@pytest.mark.parametrize("mask", CODES)
def test_encoded_sends_gradients_to_the_active_entries_of_the_encoder_alone(mask: Tensor) -> None:
    x, encoder, bias = leaf(BATCH, WIDTH).detach(), leaf(LATENTS, WIDTH), leaf(LATENTS)
    out_gradient = leaf(BATCH, LATENTS).detach()
    dense = (x @ encoder.T + bias) * (mask > 0)
    expected_encoder, expected_bias = torch.autograd.grad(dense, (encoder, bias), out_gradient)

    places = (mask > 0).flatten().nonzero().squeeze(1)
    active = encoded(Active.at(places, dense.detach()), encoder, bias, x)
    found_encoder, found_bias = torch.autograd.grad(active.values, (encoder, bias), out_gradient.flatten()[places])
    torch.testing.assert_close(active.dense(), dense)
    torch.testing.assert_close(found_encoder, expected_encoder)
    torch.testing.assert_close(found_bias, expected_bias)


# Selection


def assert_largest(values: Tensor, count: int, samples: int) -> None:
    """The indices are increasing, as many as asked for, and their values those of a full sort."""
    indices = largest(values, count, samples)
    assert len(indices) == min(count, len(values))
    assert (indices.diff() > 0).all()
    expected = values.sort(descending=True).values[:count]
    assert torch.equal(values[indices].sort(descending=True).values, expected)


KINDS = {
    "random": lambda rng, n: rng.normal(size=n),
    "constant": lambda rng, n: np.full(n, 0.5),
    "all zero": lambda rng, n: np.zeros(n),
    "mostly zero": lambda rng, n: rng.random(n) * (rng.random(n) < 0.02),
    "few values": lambda rng, n: rng.integers(0, 3, n),
    "rising": lambda rng, n: np.arange(n),
    "falling": lambda rng, n: -np.arange(n),
    "periodic": lambda rng, n: np.arange(n) % 7,  # in step with the stride of the sample
    "heavy tail": lambda rng, n: rng.standard_cauchy(n),
}


@given(
    kind=st.sampled_from(sorted(KINDS)),
    size=st.integers(1, 4000),
    share=st.floats(0, 1.1),
    samples=st.sampled_from([1, 10, 100, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_largest_equals_a_full_sort(kind: str, size: int, share: float, samples: int, seed: int) -> None:
    values = torch.from_numpy(KINDS[kind](np.random.default_rng(seed), size)).float()
    assert_largest(values, int(share * size), samples)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("count", [0, 1, 2, 999_999, 1_000_000, 1_000_001])
def test_largest_handles_tiny_and_huge_counts_of_a_million_values(kind: str, count: int) -> None:
    values = torch.from_numpy(KINDS[kind](np.random.default_rng(0), 1_000_000)).float()
    assert_largest(values, count, samples=65_536)
