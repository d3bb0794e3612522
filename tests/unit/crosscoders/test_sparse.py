"""Sparse codes: the same numbers and gradients as the dense products."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crossdiff.crosscoders.selection import Encoder, encoded
from crossdiff.crosscoders.sparse import Active, dot_products, rows_per_latent, weighted_rows

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


CODES = [
    pytest.param(random_codes(), id="some"),
    pytest.param(torch.zeros(BATCH, LATENTS, dtype=torch.float64), id="none active"),
]


def leaf(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    ).requires_grad_()


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
        torch.testing.assert_close(
            dot_products(weight, active.places, rows), (rows @ weight.detach().T)[active.rows, active.latents]
        )


def test_rows_per_latent_takes_other_values_than_the_codes() -> None:
    codes, x = random_codes(), leaf(BATCH, WIDTH).detach()
    active = Active.of(codes)
    torch.testing.assert_close(
        rows_per_latent(active._replace(values=active.values.square()), x), codes.square().T @ x
    )


@pytest.mark.parametrize("mask", CODES)
def test_encoded_sends_gradients_to_the_active_entries_of_the_encoder_alone(mask: Tensor) -> None:
    x, encoder, bias = leaf(BATCH, WIDTH).detach(), leaf(LATENTS, WIDTH), leaf(LATENTS)
    out_gradient = leaf(BATCH, LATENTS).detach()
    dense = (x @ encoder.T + bias).relu() * (mask > 0)  # some of the entries have value 0
    expected_encoder, expected_bias = torch.autograd.grad(dense, (encoder, bias), out_gradient)

    chosen = Active.of(mask)
    given = chosen._replace(values=dense.detach()[chosen.rows, chosen.latents])
    active = encoded(given, Encoder(encoder, bias), x)
    found_encoder, found_bias = torch.autograd.grad(
        active.values, (encoder, bias), out_gradient[chosen.rows, chosen.latents]
    )
    torch.testing.assert_close(active.dense(), dense)
    torch.testing.assert_close(found_encoder, expected_encoder)
    torch.testing.assert_close(found_bias, expected_bias)
