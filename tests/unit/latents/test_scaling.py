"""Latent scaling against brute force in float64 (docs/method.md 9)."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import LAYER, random_crosscoder
from helpers_scaling import LATENTS, MODELS, TOKENS, WIDTH, betas, latent_scaling, orthogonal, sparse_codes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.config import Bootstrap
from crossdiff.crosscoders.encoding import Encoded
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active
from crossdiff.latents.scaling import (
    DIRECTIONS,
    TARGETS,
    ScalingSums,
    document_blocks,
    nu_interval,
)


@pytest.fixture
def crosscoder() -> Crosscoder:
    """Random, thresholded, with one latent that never fires (3)."""
    crosscoder = random_crosscoder(WIDTH, LATENTS, seed=1)
    crosscoder.threshold.fill_(1.0)
    with torch.no_grad():
        crosscoder.encoder_bias[3] = -100
    return crosscoder.requires_grad_(False)


@pytest.fixture
def raw() -> Tensor:
    return torch.randn(TOKENS, 2, WIDTH, generator=torch.Generator().manual_seed(2))


def brute_force(crosscoder: Crosscoder, raw: Tensor) -> dict[str, np.ndarray]:
    """{target: (model, latents)}: each target written out per latent and token, with closed least squares."""
    x = (raw.double() - crosscoder.mean.double()) * crosscoder.scale.double()[:, None]
    encoder, decoder = crosscoder.encoder.double(), crosscoder.decoder.double()
    codes = torch.relu(torch.einsum("nmd,jmd->nj", x, encoder) + crosscoder.encoder_bias.double())
    codes = codes * (codes * decoder.norm(dim=2).sum(dim=1) > crosscoder.threshold)
    bias = crosscoder.decoder_bias.double()
    reconstruction = torch.einsum("nj,jmd->nmd", codes, decoder) + bias
    # One latent is left out: (J, N, 2, d).
    without_own = reconstruction[None] - torch.einsum("nj,jmd->jnmd", codes, decoder)
    targets = {
        "reconstruction": reconstruction.expand(LATENTS, -1, -1, -1),
        "error": x[None] - without_own,
        "activation": x.expand(LATENTS, -1, -1, -1),
        "activation_no_bias": (x - bias).expand(LATENTS, -1, -1, -1),
    }
    chat = decoder[:, 1]
    energy = chat.square().sum(dim=1) * codes.square().sum(dim=0)
    return {
        name: (torch.einsum("nj,jd,jnmd->mj", codes, chat, y) / energy).numpy() for name, y in targets.items()
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_beta_equals_brute_force(crosscoder: Crosscoder, raw: Tensor, target: str) -> None:
    table, expected = latent_scaling(crosscoder, [raw]), brute_force(crosscoder, raw)[target]
    np.testing.assert_allclose(betas(table, target), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table[f"nu_{target}"], expected[0] / expected[1], rtol=1e-3)
    assert np.isfinite(expected[:, [0, 1, 2, 4, 5, 6, 7, 8, 9]]).all()


def test_beta_is_the_least_squares_scale_of_the_chat_direction(crosscoder: Crosscoder, raw: Tensor) -> None:
    table = latent_scaling(crosscoder, [raw])
    x = crosscoder.normalise(raw)
    codes = crosscoder.encode(x)
    for latent in (0, 5):
        explained = (codes[:, latent, None] * crosscoder.decoder[latent, 1]).reshape(-1, 1)
        best = torch.linalg.lstsq(explained, x[:, 0].reshape(-1, 1)).solution.item()
        assert table.beta_activation_base[latent] == pytest.approx(best, rel=1e-4)


def test_many_blocks_give_the_same_as_one(crosscoder: Crosscoder, raw: Tensor) -> None:
    whole = latent_scaling(crosscoder, [raw])
    parts = latent_scaling(crosscoder, [raw[:1], raw[1:70], raw[70:]])
    assert whole.active_tokens.tolist() == parts.active_tokens.tolist()
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-3, atol=1e-6)


def test_block_without_active_latents_changes_nothing_but_frequencies(
    crosscoder: Crosscoder, raw: Tensor
) -> None:
    crosscoder.encoder_bias.clamp_max_(0)
    silent = crosscoder.mean.expand(5, 2, WIDTH)  # zero on the crosscoder's scale
    assert not crosscoder.encode(crosscoder.normalise(silent)).any()
    with_silence, without = (
        latent_scaling(crosscoder, parts, blocks=21).drop(columns="frequency")
        for parts in ([raw, silent], [raw])  # the same 21 blocks in both
    )
    pd.testing.assert_frame_equal(with_silence, without)


def test_counts_and_activations_are_those_of_the_codes(crosscoder: Crosscoder, raw: Tensor) -> None:
    table = latent_scaling(crosscoder, raw.split(64))
    codes = crosscoder.encode(crosscoder.normalise(raw)).double().numpy()
    active = (codes > 0).sum(axis=0)
    assert table.latent.tolist() == list(range(LATENTS))
    assert table.active_tokens.tolist() == active.tolist()
    np.testing.assert_allclose(table.frequency, active / TOKENS, rtol=1e-6)
    np.testing.assert_allclose(table.mean_activation, codes.sum(axis=0) / np.maximum(active, 1), rtol=1e-5)
    np.testing.assert_allclose(table.max_activation, codes.max(axis=0), rtol=1e-6)


def test_decoder_columns_are_those_of_the_decoder(crosscoder: Crosscoder, raw: Tensor) -> None:
    table, decoder = latent_scaling(crosscoder, [raw]), crosscoder.decoder.double().numpy()
    base, chat = np.linalg.norm(decoder, axis=2).T
    np.testing.assert_allclose(table.norm_base, base, rtol=1e-5)
    np.testing.assert_allclose(table.norm_chat, chat, rtol=1e-5)
    np.testing.assert_allclose(
        table.decoder_cosine,
        (decoder[:, 0] * decoder[:, 1]).sum(axis=1) / (base * chat),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        table.relative_norm_difference, (1 + (chat - base) / np.maximum(chat, base)) / 2, rtol=1e-5, atol=1e-6
    )


def test_latent_of_one_model_alone_says_what_does_not_apply(crosscoder: Crosscoder, raw: Tensor) -> None:
    """A loss holds its other directions at 0. No number stands for what can't be measured."""
    with torch.no_grad():
        for weights in (crosscoder.encoder, crosscoder.decoder):
            weights[0, 1] = weights[1, 0] = 0
    crosscoder.threshold.fill_(0.1)
    table = latent_scaling(crosscoder, [raw] * 10)
    assert table.active_tokens[:2].min() > 0
    assert table.relative_norm_difference[:2].tolist() == [0, 1]
    assert table.decoder_cosine[:2].isna().all() and table.decoder_cosine[2:].notna().all()
    of_base, of_chat = table.iloc[0], table.iloc[1]
    for target in ("error", "reconstruction"):
        assert np.isnan(of_base[f"nu_{target}"]) and np.isfinite(of_chat[f"nu_{target}"])
        assert np.isfinite(of_base[f"mirrored_nu_{target}"]) and np.isnan(of_chat[f"mirrored_nu_{target}"])


def test_dead_latent_has_no_betas_and_no_ratios(crosscoder: Crosscoder, raw: Tensor) -> None:
    # Every block is the whole data, so every latent that fires has an interval.
    table = latent_scaling(crosscoder, [raw] * 10)
    ratios = table[
        [
            column
            for column in table
            if column.startswith(("beta_", "nu_", "mirrored_", "improvement_", "control_"))
        ]
    ]
    assert ratios.shape[1] == 4 * (2 + 3 + 1 + 2 + 2)
    assert ratios.loc[3].isna().all()
    assert ratios.drop(3).notna().all(axis=None)
    assert table.loc[3, ["active_tokens", "frequency", "mean_activation", "max_activation"]].tolist() == [
        0,
        0,
        0,
        0,
    ]


def test_decoupled_betas_equal_brute_force(raw: Tensor) -> None:
    """A latent may count for one model only: reconstruction and own part follow each model's threshold."""
    crosscoder = random_crosscoder(WIDTH, LATENTS, seed=1, code_normalisation="decoupled").requires_grad_(
        False
    )
    crosscoder.threshold.copy_(torch.tensor([0.8, 0.4]))
    x = crosscoder.normalise(raw).double()
    norms, decoder = crosscoder.decoder_norms().double(), crosscoder.decoder.double()
    codes = torch.relu(
        torch.einsum("nmd,jmd->nj", x, crosscoder.encoder.double()) + crosscoder.encoder_bias.double()
    )
    # (token, model, latent)
    used = codes[:, None] * (codes[:, None] * norms.T > crosscoder.threshold[:, None])
    codes = codes * (used > 0).any(dim=1)
    assert 0 < ((used[:, 0] > 0) != (used[:, 1] > 0)).float().mean() < 0.5
    reconstruction = torch.einsum("nmj,jmd->nmd", used, decoder) + crosscoder.decoder_bias.double()
    with_own = x[None] - reconstruction[None] + torch.einsum("nmj,jmd->jnmd", used, decoder)
    energy = decoder[:, 1].square().sum(dim=1) * codes.square().sum(dim=0)
    table = latent_scaling(crosscoder, [raw])
    for target, y in {
        "reconstruction": reconstruction.expand(LATENTS, -1, -1, -1),
        "error": with_own,
    }.items():
        expected = torch.einsum("nj,jd,jnmd->mj", codes, decoder[:, 1], y) / energy
        np.testing.assert_allclose(betas(table, target), expected, rtol=1e-4, atol=1e-5)


# Intervals, mirrored ratios and controls


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    blocks=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_blocks_hold_whole_documents_in_order_however_the_text_is_cut(
    lengths: list[int], blocks: int, cuts: list[int]
) -> None:
    documents = np.repeat(np.arange(len(lengths)) + 7, lengths)
    tokens = len(documents)
    steps = itertools.cycle(cuts)
    borders = [0]
    while borders[-1] < tokens:
        borders.append(min(tokens, borders[-1] + next(steps)))
    codes = torch.from_numpy(np.random.default_rng(tokens).integers(0, 3, (tokens, 4)).astype(np.float32))
    parts = [
        Encoded(torch.arange(a, b)[:, None, None], Active.of(codes[a:b]), documents[a:b])
        for a, b in itertools.pairwise(borders)
    ]
    found = list(document_blocks(parts, tokens, blocks))
    assert torch.cat([part.x.flatten() for part, _ in found]).tolist() == list(range(tokens))
    torch.testing.assert_close(torch.cat([part.active.dense() for part, _ in found]), codes, rtol=0, atol=0)
    assert np.concatenate([part.documents for part, _ in found]).tolist() == documents.tolist()
    number = np.concatenate([np.full(len(part.x), block) for part, block in found])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    # The place of a document's first token decides its block.
    assert number.tolist() == np.repeat(first * blocks // tokens, lengths).tolist()


def test_interval_is_the_percentile_bootstrap_over_blocks() -> None:
    numerators = torch.rand(2, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = nu_interval(numerators, Bootstrap(blocks=12, samples=4000, seed=1))
    rng = np.random.default_rng(7)
    # Here blocks are drawn one by one.
    samples = numerators.numpy()[:, rng.integers(0, 12, (4000, 12))].sum(axis=2)
    expected = np.quantile(samples[0] / samples[1], [0.025, 0.975], axis=0)
    np.testing.assert_allclose(np.stack([low, high]), expected, rtol=0.08)


def test_interval_is_that_of_multinomial_draws_of_blocks() -> None:
    numerators = torch.rand(2, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = nu_interval(numerators, Bootstrap(blocks=12, samples=300, seed=1))
    # (model, draw, latent)
    drawn = np.random.default_rng(1).multinomial(12, [1 / 12] * 12, 300) @ numerators.numpy()
    np.testing.assert_allclose(found, np.quantile(drawn[0] / drawn[1], [0.025, 0.975], axis=0), rtol=1e-6)


def test_interval_holds_the_estimate_and_narrows_with_more_text(crosscoder: Crosscoder) -> None:
    widths = []
    for tokens in (600, 60_000):
        raw = torch.randn(tokens, 2, WIDTH, generator=torch.Generator().manual_seed(5))
        table = latent_scaling(crosscoder, [raw], blocks=20, samples=200).drop(3)
        assert (table.nu_activation_low <= table.nu_activation).mean() > 0.8
        inside = (table.nu_error_low <= table.nu_error) & (table.nu_error <= table.nu_error_high)
        assert inside.all()
        widths.append((table.nu_error_high - table.nu_error_low).median())
    assert widths[1] < widths[0] / 4


def test_interval_of_a_latent_in_few_blocks_is_undefined() -> None:
    numerators = torch.zeros(2, 50, 3, dtype=torch.float64)
    numerators[:, 20:30, 0], numerators[:, 20:29, 1] = 1.0, 1.0
    numerators[0, :, 2], numerators[1, :9, 2] = 1.0, 1.0  # most draws would be defined, but rest on 9 blocks
    low, high = nu_interval(numerators, Bootstrap(samples=50))
    assert (low[0], high[0]) == (1, 1)
    assert torch.isnan(low[1:]).all() and torch.isnan(high[1:]).all()


@pytest.mark.parametrize("active", [10, 50])
def test_interval_holds_the_truth_about_as_often_as_it_says(active: int) -> None:
    generator, latents = np.random.default_rng(0), 1000
    numerators = np.zeros((2, 50, latents))
    blocks = generator.permuted(np.tile(np.arange(50)[:, None], latents), axis=0)[:active]
    weight = generator.exponential(size=blocks.shape)
    numerators[0, blocks, np.arange(latents)] = weight * (0.5 + 0.4 * generator.normal(size=blocks.shape))
    numerators[1, blocks, np.arange(latents)] = weight
    low, high = nu_interval(torch.from_numpy(numerators), Bootstrap())
    assert ((low <= 0.5) & (high >= 0.5)).double().mean() > 0.86


def test_mirrored_ratio_is_the_ratio_of_the_pair_turned_round(crosscoder: Crosscoder, raw: Tensor) -> None:
    turned = Crosscoder(WIDTH, LATENTS, LAYER)
    turned.load_state_dict(
        {
            name: value.flip(-1 if name == "scale" else -2)
            if value.dim() and name != "encoder_bias"
            else value
            for name, value in crosscoder.state_dict().items()
        }
    )
    table = latent_scaling(crosscoder, [raw])
    other = latent_scaling(turned.requires_grad_(False), [raw.flip(1)])
    for target in TARGETS:
        np.testing.assert_allclose(table[f"mirrored_nu_{target}"], other[f"nu_{target}"], rtol=1e-3)


def test_improvement_is_the_drop_of_the_squared_error(crosscoder: Crosscoder, raw: Tensor) -> None:
    table, x = latent_scaling(crosscoder, [raw]), crosscoder.normalise(raw)
    codes, chat = crosscoder.encode(x), crosscoder.decoder[:, 1]
    for latent in (0, 5):
        on = codes[:, latent] > 0
        fitted = table.beta_activation_base[latent] * codes[on, latent, None] * chat[latent]
        drop = (x[on, 0].square().sum(dim=1) - (x[on, 0] - fitted).square().sum(dim=1)).mean()
        assert table.improvement_activation_base[latent] == pytest.approx(drop.item(), rel=1e-3)
    assert (
        table.drop(3)[[f"improvement_{target}_{model}" for target in TARGETS for model in MODELS]] >= 0
    ).all(axis=None)


def test_control_direction_has_the_chat_norm_and_explains_little() -> None:
    crosscoder = orthogonal(torch.ones(WIDTH))
    sums = ScalingSums(crosscoder, 2, seed=0)
    torch.testing.assert_close(sums.directions[:, DIRECTIONS.index("control")].norm(dim=1), torch.ones(WIDTH))
    wide = Crosscoder(400, 4, LAYER)
    with torch.no_grad():
        wide.encoder[:, 1] = wide.decoder[:, 1] = wide.decoder[:, 0] = torch.eye(4, 400)
    codes = torch.zeros(TOKENS, 400)
    codes[:, :4] = sparse_codes()[:, :4]
    table = latent_scaling(wide.requires_grad_(False), [torch.stack([codes, codes], dim=1)])
    np.testing.assert_allclose(table.beta_activation_chat, 1, atol=1e-5)
    assert (table.control_beta_activation_chat.abs() < 0.3).all()
