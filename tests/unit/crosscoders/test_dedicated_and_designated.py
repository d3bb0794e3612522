"""Losses with fixed classes of latents, against dense autograd in float64 (docs/method.md 16 and 17)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_dense import (
    BATCH,
    LATENTS,
    WIDTH,
    Dense,
    batch,
    dense_auxiliary,
    dense_batchtopk,
    dense_codes,
    dense_error,
    dense_l1,
    norm_sums,
)
from helpers_newer import SLOW_KERNELS, assert_trains_like_float64, new, newer_settings, with_weights
from helpers_paths import on_path
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.crosscoders.model import Crosscoder, load_crosscoder

NOBODY = torch.zeros(LATENTS, dtype=torch.bool)

# Dedicated: 3 latents of the base, then 6 of the chat model, then 15 shared ones.

FREE = torch.ones(LATENTS, 2, 1, dtype=torch.float64)
FREE[:3, CHAT] = 0
FREE[3:9, BASE] = 0


def masked(twin: Crosscoder) -> Any:
    return with_weights(twin, twin.encoder * FREE, twin.decoder * FREE)


def assert_held(crosscoder: Crosscoder) -> None:
    for weights in (crosscoder.encoder, crosscoder.decoder):
        assert ((weights != 0).all(dim=2, keepdim=True) == FREE.bool()).all()
        assert (weights[:3, CHAT] == 0).all() and (weights[3:9, BASE] == 0).all()


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_dedicated_trains_like_masked_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("dedicated")
        assert_held(crosscoder)
        assert_trains_like_float64(
            loss,
            crosscoder,
            lambda twin, x, step: dense_batchtopk(masked(twin), x, 3, False, NOBODY, 0, 0.0),
        )
    assert_held(crosscoder)


def test_dedicated_with_dead_latents_trains_like_masked_dense_autograd() -> None:
    """Dead exclusive latents rebuild what is left of their own model alone."""
    loss, crosscoder = new("dedicated", k=1, auxiliary_coefficient=0.5, dead_after_tokens=2 * BATCH)
    with torch.no_grad():
        crosscoder.decoder[:8] *= 0.05
    silent = torch.zeros(LATENTS, dtype=torch.long)

    def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
        found = dense_batchtopk(masked(twin), x, 1, False, silent + BATCH >= 2 * BATCH, 512, 0.5)
        silent.add_(BATCH).masked_fill_((found.codes > 0).any(dim=0), 0)
        return found

    seen = assert_trains_like_float64(loss, crosscoder, reference)
    assert all(parts.log["auxiliary_loss"] > 0 for parts in seen[1:])
    assert_held(crosscoder)


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_dedicated_l1_trains_like_masked_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("dedicated_l1")
        assert_trains_like_float64(
            loss, crosscoder, lambda twin, x, step: dense_l1(masked(twin), x, 0.1, False)
        )
    assert_held(crosscoder)


def test_exclusive_latents_do_not_see_the_other_model() -> None:
    _, crosscoder = new("dedicated")
    x, other = batch(), batch()
    other[:, CHAT] = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    before, after = crosscoder.encode(x), crosscoder.encode(other)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:9], after[:, 3:9])


# Designated: 9 latents with one decoder direction and a fifth of the penalty, then 15 free ones.

PENALTIES = torch.ones(LATENTS, dtype=torch.float64)
PENALTIES[:9] = 0.2


def tied(twin: Crosscoder) -> Any:
    shared = twin.decoder[:9].mean(dim=1, keepdim=True).expand(-1, 2, -1)
    return with_weights(twin, twin.encoder, torch.cat([shared, twin.decoder[9:]]))


def assert_tied(crosscoder: Crosscoder) -> None:
    assert torch.equal(crosscoder.decoder[:9, BASE], crosscoder.decoder[:9, CHAT])
    assert (crosscoder.decoder[9:, BASE] != crosscoder.decoder[9:, CHAT]).all()
    assert (crosscoder.encoder[:, BASE] != crosscoder.encoder[:, CHAT]).all()


def dense_designated(twin: Crosscoder, x: Tensor, dead: Tensor, coefficient: float, k: int) -> Dense:
    crosscoder = tied(twin)
    codes = dense_codes(crosscoder, x)
    scaled = (codes * norm_sums(crosscoder)).detach()
    preferred = scaled / PENALTIES
    bound = preferred.flatten().sort(descending=True).values[k * BATCH - 1]
    kept = codes * ((preferred >= bound) & (scaled > 0))
    reconstruction, error = dense_error(crosscoder, x, kept, False)
    dead = dead & ~(kept > 0).any(dim=0)
    auxiliary = dense_auxiliary(crosscoder, codes, scaled, (x - reconstruction).detach(), dead, 512)
    return Dense(error + coefficient * auxiliary, reconstruction, kept, preferred, auxiliary)


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_designated_trains_like_tied_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("designated")
        assert_tied(crosscoder)
        seen = assert_trains_like_float64(
            loss, crosscoder, lambda twin, x, step: dense_designated(twin, x, NOBODY, 0.0, 3)
        )
    assert_tied(crosscoder)
    fired = torch.stack([parts.fired for parts in seen]).sum(dim=0)
    assert fired[:9].sum() / 9 > 2 * fired[9:].sum() / 15  # they are selected more easily


def test_designated_l1_trains_like_tied_dense_autograd() -> None:
    loss, crosscoder = new("designated_l1")

    def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
        crosscoder = tied(twin)
        codes = dense_codes(crosscoder, x)
        scaled = codes * norm_sums(crosscoder) * PENALTIES
        reconstruction, error = dense_error(crosscoder, x, codes, False)
        return Dense(error + 0.1 * scaled.sum(dim=1).mean(), reconstruction, codes, scaled, torch.zeros(()))

    assert_trains_like_float64(loss, crosscoder, reference)
    assert_tied(crosscoder)


@pytest.mark.parametrize("threshold", ["running", "held_out"])
def test_designated_latents_count_at_inference_as_they_were_selected(threshold: str) -> None:
    loss, crosscoder = new("designated", threshold=threshold, threshold_start_step=0)
    loss.start(crosscoder, batch())
    selected = dense_designated(crosscoder.double(), batch().double(), NOBODY, 0.0, 3)
    crosscoder.float()
    loss(crosscoder, batch(), 0)
    if threshold == "held_out":
        crosscoder.threshold.fill_(-1.0)
        loss.finish(crosscoder, [batch()])
    assert crosscoder.threshold.shape == (LATENTS,)
    torch.testing.assert_close(crosscoder.threshold[:9], 0.2 * crosscoder.threshold[9:10].expand(9))
    smallest = selected.scaled[selected.codes > 0].min().float()
    torch.testing.assert_close(crosscoder.threshold[-1], smallest)
    crosscoder.threshold *= 1 - 1e-5  # the smallest one counts, too
    assert torch.equal(crosscoder.encode(batch()) > 0, selected.codes > 0)


# Both


@pytest.mark.parametrize(
    ("loss", "partition"),
    [
        ("dedicated", {"base": 3, "chat": 6, "shared": 15}),
        ("dedicated_l1", {"base": 3, "chat": 6, "shared": 15}),
        ("designated", {"designated": 9, "free": 15}),
        ("designated_l1", {"designated": 9, "free": 15}),
    ],
)
def test_saved_crosscoder_knows_its_classes(tmp_path: Path, loss: str, partition: dict[str, int]) -> None:
    _, crosscoder = new(loss)
    assert crosscoder.partition == partition
    paths = (tmp_path / "weights.safetensors", tmp_path / "config.json")
    crosscoder.save(*paths, newer_settings(loss).model_dump())
    loaded = load_crosscoder(*paths)
    assert loaded.partition == partition
    assert list(loaded.partition) == list(partition)
    assert torch.equal(loaded.encode(batch()), crosscoder.encode(batch()))
