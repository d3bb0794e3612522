"""Latent scaling finds the ratios of crosscoders whose answers are known by construction."""

import numpy as np
import pytest
import torch
from helpers_activations import LAYER, random_crosscoder
from helpers_scaling import LATENTS, TOKENS, WIDTH, betas, latent_scaling, orthogonal, sparse_codes
from torch import Tensor

from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents.scaling import TARGETS, relative_norm_difference


@pytest.fixture
def raw() -> Tensor:
    return torch.randn(TOKENS, 2, WIDTH, generator=torch.Generator().manual_seed(2))


def test_planted_scale_is_recovered() -> None:
    scales, codes = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, -0.3]), sparse_codes()
    table = latent_scaling(orthogonal(scales), [torch.stack([codes * scales, codes], dim=1)])
    for target in TARGETS:
        np.testing.assert_allclose(betas(table, target), torch.stack([scales, torch.ones(WIDTH)]), atol=1e-6)
        np.testing.assert_allclose(table[f"nu_{target}"], scales, atol=1e-6)


def test_complete_shrinkage_shows_in_nu_error() -> None:
    """The base model uses the direction as the chat model does, but the base decoder is zero."""
    codes = sparse_codes()
    table = latent_scaling(orthogonal(torch.zeros(WIDTH)), [torch.stack([codes, codes], dim=1)])
    np.testing.assert_allclose(table.nu_error, 1, atol=1e-6)
    np.testing.assert_allclose(table.nu_reconstruction, 0, atol=1e-6)


def test_latent_decoupling_shows_in_nu_reconstruction() -> None:
    """Latents 0 (chat decoder only) and 1 (base decoder only) fire on the same tokens along one direction."""
    crosscoder = Crosscoder(WIDTH, 2, LAYER)
    with torch.no_grad():
        crosscoder.encoder[:, 1, 0] = 1
        crosscoder.decoder[0, 1, 0] = crosscoder.decoder[1, 0, 0] = 1
    x = torch.zeros(TOKENS, 2, WIDTH)
    x[:, :, 0] = sparse_codes()[:, :1]
    row = latent_scaling(crosscoder, [x]).loc[0]
    assert row.relative_norm_difference == 1
    assert row.nu_reconstruction == pytest.approx(1)
    assert row.nu_error == pytest.approx(0, abs=1e-6)


def test_identical_models_with_identical_decoders_have_ratios_of_one(raw: Tensor) -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    with torch.no_grad():
        for tensor in (crosscoder.decoder, crosscoder.mean[None], crosscoder.decoder_bias[None]):
            tensor[:, 0] = tensor[:, 1]
        crosscoder.scale[:] = 1.5
    table = latent_scaling(crosscoder, [raw[:, [0, 0]]])
    for target in TARGETS:
        np.testing.assert_allclose(table[f"nu_{target}"], 1, rtol=1e-5)
    np.testing.assert_allclose(table.relative_norm_difference, 0.5)


def test_ratios_are_about_zero_where_the_base_model_lacks_the_direction() -> None:
    """Latent 0 alone is missing in the base model; everything else is shared and noisy."""
    crosscoder, codes = orthogonal(torch.tensor([0.0] + [1.0] * (WIDTH - 1))), sparse_codes()
    x = torch.stack([codes, codes], dim=1) + 0.05 * torch.randn(
        TOKENS, 2, WIDTH, generator=torch.Generator().manual_seed(4)
    )
    x[:, 0, 0] = 0
    table = latent_scaling(crosscoder, [x])
    for target in TARGETS:
        assert table[f"nu_{target}"][0] == pytest.approx(0, abs=1e-6)
        assert (table[f"nu_{target}"][1:] > 0.8).all()


@pytest.mark.parametrize(
    ("base", "chat", "difference"),
    [(1.0, 0.0, 0.0), (2.0, 2.0, 0.5), (0.0, 3.0, 1.0), (1.0, 2.0, 0.75), (2.0, 1.0, 0.25), (0.0, 0.0, 0.5)],
)
def test_relative_norm_difference_of_known_norms(base: float, chat: float, difference: float) -> None:
    assert relative_norm_difference(torch.tensor([[base, chat]])).item() == difference
