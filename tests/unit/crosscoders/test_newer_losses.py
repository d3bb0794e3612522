"""Losses against dense autograd in float64 (docs/method.md 18 to 22)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_dense import (
    BATCH,
    LATENTS,
    Dense,
    batch,
    dense_auxiliary,
    dense_batchtopk,
    dense_codes,
    dense_error,
    norm_sums,
)
from helpers_newer import SLOW_KERNELS, assert_trains_like_float64, new, newer_settings
from helpers_paths import on_path
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.model import Crosscoder, load_crosscoder
from crossdiff.crosscoders.optimiser import new_optimiser
from crossdiff.crosscoders.sparse import Active, grouped_rows
from crossdiff.errors import UserError

NOBODY = torch.zeros(LATENTS, dtype=torch.bool)
NOTHING = torch.zeros(())


def kept_largest(scaled: Tensor, count: int) -> Tensor:
    """True at the ``count`` largest entries that are positive."""
    bound = scaled.flatten().sort(descending=True).values[count - 1]
    return (scaled >= bound) & (scaled > 0)


def test_groups_of_latents_add_up_to_all() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(5, 12, generator=generator) * (torch.rand(5, 12, generator=generator) < 0.5)
    weight = torch.randn(12, 4, generator=generator)
    found = grouped_rows(weight, Active.of(codes), torch.tensor([3, 4, 12]))
    expected = [codes[:, start:end] @ weight[start:end] for start, end in ((0, 3), (3, 4), (4, 12))]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


# Matryoshka: prefixes of 6, 12 and 24 latents.


def dense_matryoshka(twin: Crosscoder, x: Tensor, dead: Tensor, coefficient: float, k: int) -> Dense:
    codes = dense_codes(twin, x)
    scaled = (codes * norm_sums(twin)).detach()
    kept = codes * kept_largest(scaled, k * BATCH)
    total = torch.zeros((), dtype=x.dtype)
    for end in (6, 12, 24):
        reconstruction, error = dense_error(twin, x, kept * (torch.arange(LATENTS) < end), False)
        total = total + error
    dead = dead & ~(kept > 0).any(dim=0)
    auxiliary = dense_auxiliary(twin, codes, scaled, (x - reconstruction).detach(), dead, 512)
    return Dense(total + coefficient * auxiliary, reconstruction, kept, scaled, auxiliary)


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_matryoshka_trains_like_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("matryoshka")
        seen = assert_trains_like_float64(
            loss, crosscoder, lambda twin, x, step: dense_matryoshka(twin, x, NOBODY, 0.0, 3)
        )
    assert crosscoder.partition == {"prefix1": 6, "prefix2": 6, "prefix3": 12}
    for parts in seen:
        torch.testing.assert_close(parts.log["reconstruction_loss"] + parts.log["prefix_loss"], parts.loss)


def test_matryoshka_with_dead_latents_trains_like_dense_autograd() -> None:
    loss, crosscoder = new("matryoshka", k=1, auxiliary_coefficient=0.5, dead_after_tokens=2 * BATCH)
    with torch.no_grad():
        crosscoder.decoder[:8] *= 0.05
    silent = torch.zeros(LATENTS, dtype=torch.long)

    def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
        found = dense_matryoshka(twin, x, silent + BATCH >= 2 * BATCH, 0.5, 1)
        silent.add_(BATCH).masked_fill_((found.codes > 0).any(dim=0), 0)
        return found

    seen = assert_trains_like_float64(loss, crosscoder, reference)
    assert all(parts.log["auxiliary_loss"] > 0 for parts in seen[1:])


# JumpReLU, with the estimator as functions of their own (Rajamanoharan et al., equations 11 and 12).


class Step(torch.autograd.Function):
    """Heaviside(z - theta)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        z, theta = ctx.saved_tensors
        rectangle = ((z - theta).abs() / ctx.width < 0.5) & (z > 0)
        return None, (-gradient * rectangle / ctx.width).sum(dim=0), None


class JumpReLU(torch.autograd.Function):
    """f Heaviside(f w - theta)."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, w: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(f, w, theta)
        ctx.width = width
        return f * (f * w > theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        f, w, theta = ctx.saved_tensors
        rectangle = ((f * w - theta).abs() / ctx.width < 0.5) & (f > 0)
        of_theta = -gradient * rectangle * theta / w / ctx.width
        return gradient * (f * w > theta), None, of_theta.sum(dim=0), None


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_jumprelu_trains_like_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("jumprelu", l0_warmup_steps=4)
        loss.start(crosscoder, batch())
        before, width = crosscoder.threshold.clone(), float(loss.window)

        def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
            codes, weights = dense_codes(twin, x), norm_sums(twin).detach()
            thresholds = twin.log_threshold.exp()
            kept = JumpReLU.apply(codes, weights, thresholds, width)
            count = Step.apply((codes * weights).detach(), thresholds, width).sum(dim=1).mean()
            reconstruction, error = dense_error(twin, x, kept, False)
            coefficient = 0.05 * min(1, (step + 1) / 4)
            return Dense(error + coefficient * count, reconstruction, kept, codes * weights, NOTHING)

        seen = assert_trains_like_float64(loss, crosscoder, reference)
    with torch.no_grad():
        loss.after_step(crosscoder, 0)
    assert (crosscoder.threshold != before).sum() > LATENTS / 2
    assert seen[0].log["l0_loss"] == seen[0].fired.sum() / BATCH


def test_jumprelu_starts_with_the_wanted_number_of_active_latents() -> None:
    loss, crosscoder = new("jumprelu", initial_l0=5, bandwidth=0.5)
    loss.start(crosscoder, batch())
    assert len(set(crosscoder.threshold.tolist())) == 1
    active = crosscoder.active(batch())
    assert len(active.values) == 5 * BATCH - 1  # the last one is the threshold itself
    assert loss.window == 0.5 * crosscoder.threshold[0]


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_step_moves_a_threshold_by_a_share_of_itself_on_any_scale(scale: float) -> None:
    loss, crosscoder = new("jumprelu", bandwidth=1.0)
    x = scale * batch()
    loss.start(crosscoder, x)
    before = crosscoder.threshold.clone()
    loss(crosscoder, x, 0).loss.backward()
    new_optimiser(crosscoder, loss).update(0.1, None)
    with torch.no_grad():
        loss.after_step(crosscoder, 0)
    moved = (crosscoder.threshold / before).log()  # Adam's first step is the learning rate, up or down
    assert (moved != 0).sum() > LATENTS / 2
    torch.testing.assert_close(
        moved[moved != 0].abs(), torch.full_like(moved[moved != 0], 0.1), rtol=1e-3, atol=0
    )


def test_jumprelu_needs_an_active_latent_to_start() -> None:
    loss, crosscoder = new("jumprelu")
    with torch.no_grad():
        crosscoder.encoder_bias.fill_(-100)
    with pytest.raises(UserError, match="no latent is active on the first batch"):
        loss.start(crosscoder, batch())


@pytest.mark.parametrize("name", ["jumprelu", "delta"])
def test_saved_crosscoder_keeps_the_thresholds_of_latents(tmp_path: Path, name: str) -> None:
    loss, crosscoder = new(name, **({} if name == "jumprelu" else {"threshold_start_step": 0}))
    loss.start(crosscoder, batch())
    loss(crosscoder, batch(), 0)
    with torch.no_grad():
        crosscoder.threshold *= torch.linspace(0.5, 1.5, LATENTS)
    paths = (tmp_path / "weights.safetensors", tmp_path / "config.json")
    crosscoder.save(*paths, newer_settings(name).model_dump())
    loaded = load_crosscoder(*paths)
    assert torch.equal(loaded.threshold, crosscoder.threshold)
    assert torch.equal(loaded.encode(batch()), crosscoder.encode(batch()))
    scaled = dense_codes(crosscoder, batch()) * norm_sums(crosscoder)
    assert torch.equal(loaded.encode(batch()) > 0, scaled > crosscoder.threshold)


# Delta: 15 shared latents, 9 free ones.


def dense_delta(twin: Crosscoder, x: Tensor) -> Dense:
    codes = dense_codes(twin, x)
    scaled = (codes * norm_sums(twin)).detach()
    chosen = torch.cat(
        [kept_largest(scaled[:, :15], 3 * BATCH), kept_largest(scaled[:, 15:], 2 * BATCH)], dim=1
    )
    kept = codes * chosen
    reconstruction, error = dense_error(twin, x, kept, False)
    directions = twin.decoder[15:, CHAT] - twin.decoder[15:, BASE]
    changed = kept[:, 15:] @ directions + twin.decoder_bias[CHAT] - twin.decoder_bias[BASE]
    delta = (x[:, CHAT] - x[:, BASE] - changed).norm(dim=1).mean()
    return Dense(error + 0.7 * delta, reconstruction, kept, scaled, NOTHING)


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_delta_trains_like_dense_autograd(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new("delta")
        seen = assert_trains_like_float64(loss, crosscoder, lambda twin, x, step: dense_delta(twin, x))
    for parts in seen:
        assert parts.fired[:15].sum() == 3 * BATCH
        assert parts.fired[15:].sum() == 2 * BATCH


@pytest.mark.parametrize("threshold", ["running", "held_out"])
def test_delta_counts_at_inference_what_each_class_selected(threshold: str) -> None:
    loss, crosscoder = new("delta", threshold=threshold, threshold_start_step=0)
    loss.start(crosscoder, batch())
    loss(crosscoder, batch(), 0)
    if threshold == "held_out":
        crosscoder.threshold.fill_(-1.0)
        loss.finish(crosscoder, [batch()])
    found = dense_delta(crosscoder, batch())
    for part in (slice(0, 15), slice(15, 24)):
        smallest = found.scaled[:, part][found.codes[:, part] > 0].min()
        torch.testing.assert_close(crosscoder.threshold[part], smallest.expand(part.stop - part.start))
    crosscoder.threshold *= 1 - 1e-5
    assert torch.equal(crosscoder.encode(batch()) > 0, found.codes > 0)


# Bridge


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_bridge_trains_like_dense_autograd(path: str) -> None:
    def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
        found = dense_batchtopk(twin, x, 3, True, NOBODY, 0, 0.0)
        base, chat = (x - found.reconstruction).unbind(1)
        loss = base.square().sum(dim=1) + chat.square().sum(dim=1) - 1.2 * (base * chat).sum(dim=1)
        return found._replace(loss=loss.mean())

    with on_path(path):
        loss, crosscoder = new("bridge")
        assert_trains_like_float64(loss, crosscoder, reference)


def test_bridge_ends_at_the_crosscoder_and_at_the_difference() -> None:
    found = {}
    for coupling in (-1.0, 0.0, 1.0):
        loss, crosscoder = new("bridge", coupling=coupling)
        parts = loss(crosscoder, batch(), 0)
        errors = batch() - parts.reconstruction
        found[coupling] = parts.loss
    torch.testing.assert_close(found[0.0], errors.square().sum(dim=(1, 2)).mean())
    difference = errors[:, CHAT] - errors[:, BASE]
    torch.testing.assert_close(found[-1.0], difference.square().sum(dim=1).mean())
    torch.testing.assert_close(found[1.0], errors.sum(dim=1).square().sum(dim=1).mean())


# Difference


def of_difference(crosscoder: Crosscoder, step: int = 0) -> Tensor:
    return crosscoder.normalise(batch(step))


def dense_difference(twin: Crosscoder, x: Tensor, dead: Tensor, coefficient: float, k: int) -> Dense:
    """A plain autoencoder of what the chat half of ``x`` holds."""
    delta, encoder, decoder = x[:, CHAT], twin.encoder[:, CHAT], twin.decoder[:, CHAT]
    codes = torch.relu(delta @ encoder.T + twin.encoder_bias)
    scaled = (codes * decoder.norm(dim=1)).detach()
    kept = codes * kept_largest(scaled, k * BATCH)
    rebuilt = kept @ decoder + twin.decoder_bias[CHAT]
    loss = (delta - rebuilt).norm(dim=1).mean()
    residual = torch.stack([torch.zeros_like(delta), (delta - rebuilt).detach()], dim=1)
    dead = dead & ~(kept > 0).any(dim=0)
    auxiliary = dense_auxiliary(twin, codes, scaled, residual, dead, 512)
    unused = 0 * (twin.encoder.sum() + twin.decoder.sum() + twin.decoder_bias.sum())  # gradients of 0
    reconstruction = torch.stack([torch.zeros_like(rebuilt), rebuilt], dim=1)
    return Dense(loss + coefficient * auxiliary + unused, reconstruction, kept, scaled, auxiliary)


def new_difference(**changes: Any) -> tuple[Any, Crosscoder]:
    loss, crosscoder = new("difference", **changes)
    with torch.no_grad():
        crosscoder.decoder_bias[BASE] = 0  # as at the start of a training
    return loss, crosscoder


@pytest.mark.parametrize("path", SLOW_KERNELS)
def test_difference_trains_like_a_dense_autoencoder(path: str) -> None:
    with on_path(path):
        loss, crosscoder = new_difference()
        assert_trains_like_float64(
            loss,
            crosscoder,
            lambda twin, x, step: dense_difference(twin, x, NOBODY, 0.0, 3),
            lambda step: of_difference(crosscoder, step),
        )
    for weights in (crosscoder.encoder[:, BASE], crosscoder.decoder[:, BASE], crosscoder.decoder_bias[BASE]):
        assert (weights == 0).all()


def test_difference_with_dead_latents_trains_like_a_dense_autoencoder() -> None:
    loss, crosscoder = new_difference(k=1, auxiliary_coefficient=0.5, dead_after_tokens=2 * BATCH)
    with torch.no_grad():
        crosscoder.decoder[:8] *= 0.05
    silent = torch.zeros(LATENTS, dtype=torch.long)

    def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
        found = dense_difference(twin, x, silent + BATCH >= 2 * BATCH, 0.5, 1)
        silent.add_(BATCH).masked_fill_((found.codes > 0).any(dim=0), 0)
        return found

    seen = assert_trains_like_float64(
        loss, crosscoder, reference, lambda step: of_difference(crosscoder, step)
    )
    assert all(parts.log["auxiliary_loss"] > 0 for parts in seen[1:])
    assert (crosscoder.decoder[:, BASE] == 0).all()


def test_difference_reads_chat_minus_base_on_one_scale() -> None:
    _, crosscoder = new("difference")
    raw = batch()
    scaled = (raw - crosscoder.mean) * crosscoder.scale[:, None]
    found = crosscoder.normalise(raw)
    assert (found[:, BASE] == 0).all()
    torch.testing.assert_close(found[:, CHAT], scaled[:, CHAT] - scaled[:, BASE])


def test_difference_starts_with_a_bias_for_the_difference_alone() -> None:
    loss, crosscoder = new("difference")
    loss.start(crosscoder, of_difference(crosscoder))
    assert (crosscoder.decoder_bias[BASE] == 0).all() and (crosscoder.decoder_bias[CHAT] != 0).all()


def test_saved_difference_says_that_it_has_no_base_decoder(tmp_path: Path) -> None:
    _, crosscoder = new("difference")
    paths = (tmp_path / "weights.safetensors", tmp_path / "config.json")
    crosscoder.save(*paths, newer_settings("difference").model_dump())
    loaded = load_crosscoder(*paths)
    assert loaded.limits == crosscoder.limits == Limits(base_decoder="a difference SAE has no base decoder")
    assert torch.equal(loaded.encode(loaded.normalise(batch())), crosscoder.encode(of_difference(crosscoder)))


def test_loss_of_the_difference_must_say_that_it_has_no_base_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "crossdiff.crosscoders.losses.difference.DifferenceLoss.limits", lambda loss: Limits()
    )
    with pytest.raises(ValueError, match=r"limits\(\) must say why there is no base decoder"):
        new("difference")
