"""The losses written with dense matrices and autograd, and the comparison of training steps with them."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings, random_crosscoder
from torch import Tensor

from crossdiff.crosscoders import kernels
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.base import Loss, Parts
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.optimiser import new_optimiser

WIDTH, LATENTS, BATCH, STEPS = 6, 24, 16, 20
INTERPRETED = 7  # steps with interpreted kernels, which take seconds each


class Dense(NamedTuple):
    """What a reference gives, all from dense (batch, latents) matrices."""

    loss: Tensor
    reconstruction: Tensor
    codes: Tensor
    scaled: Tensor
    auxiliary: Tensor


def batch(step: int = 0) -> Tensor:
    return torch.randn(BATCH, 2, WIDTH, generator=torch.Generator().manual_seed(100 + step))


def dense_codes(crosscoder: Crosscoder, x: Tensor) -> Tensor:
    return torch.relu(torch.einsum("bmd,jmd->bj", x, crosscoder.encoder) + crosscoder.encoder_bias)


def norm_sums(crosscoder: Crosscoder) -> Tensor:
    return torch.linalg.vector_norm(crosscoder.decoder, dim=2).sum(dim=1)


def dense_error(crosscoder: Crosscoder, x: Tensor, codes: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    reconstruction = torch.einsum("bj,jmd->bmd", codes, crosscoder.decoder) + crosscoder.decoder_bias
    squares = (x - reconstruction).square().sum(dim=2)
    return reconstruction, (squares if squared else squares.sqrt()).mean()


def dense_l1(crosscoder: Crosscoder, x: Tensor, coefficient: float, squared: bool) -> Dense:
    codes = dense_codes(crosscoder, x)
    scaled = codes * norm_sums(crosscoder)
    reconstruction, error = dense_error(crosscoder, x, codes, squared)
    return Dense(
        error + coefficient * scaled.sum(dim=1).mean(), reconstruction, codes, scaled, torch.zeros(())
    )


def dense_batchtopk(
    crosscoder: Crosscoder, x: Tensor, k: int, squared: bool, dead: Tensor, k_dead: int, coefficient: float
) -> Dense:
    """The loss of docs/method.md 6. ``dead`` (latents,) are dead unless selected in this batch."""
    codes = dense_codes(crosscoder, x)
    scaled = (codes * norm_sums(crosscoder)).detach()
    bound = scaled.flatten().sort(descending=True).values[k * BATCH - 1]
    kept = codes * ((scaled >= bound) & (scaled > 0))
    reconstruction, error = dense_error(crosscoder, x, kept, squared)
    dead = dead & ~(kept > 0).any(dim=0)
    auxiliary = dense_auxiliary(crosscoder, codes, scaled, (x - reconstruction).detach(), dead, k_dead)
    return Dense(error + coefficient * auxiliary, reconstruction, kept, scaled, auxiliary)


def dense_auxiliary(
    crosscoder: Crosscoder, codes: Tensor, scaled: Tensor, residual: Tensor, dead: Tensor, k_dead: int
) -> Tensor:
    """Rebuild the residual from each token's strongest dead latents, without bias.

    Gives the squared error over the residual's batch variance.
    """
    if not dead.any():
        return torch.zeros(())
    ranks = torch.where(dead, scaled, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    chosen = dead & (ranks < k_dead)
    rebuilt = torch.einsum("bj,jmd->bmd", codes * chosen, crosscoder.decoder)
    variance = (residual - residual.mean(dim=0)).square().mean(dim=0).sum()
    return (rebuilt - residual).square().sum(dim=(1, 2)).mean() / variance


def assert_same(found: Tensor, expected: Tensor, name: str, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the norm of the whole tensor."""
    difference = (found - expected).norm() / expected.norm().clamp_min(1e-30)
    assert difference <= tolerance, f"{name}: relative difference {difference:.2e}"


def gradient(crosscoder: Crosscoder, name: str) -> Tensor:
    """Give a parameter's gradient. Where only its pieces are kept, the moments of Adam's kernel show it."""
    parameter = dict(crosscoder.named_parameters())[name]
    if name not in crosscoder.pieces:
        return parameter.grad
    fast = kernels.of(parameter)
    w = parameter.detach().flatten(1).clone()
    mean = torch.zeros_like(w)
    pieces = fast.Gradient(w, parameter.grad, crosscoder.pieces[name])
    fast.adam(w, mean, torch.zeros_like(w), pieces, torch.ones(()), learning_rate=0.0, step=1)
    found = (mean / (1 - fast.BETA1)).view_as(parameter)
    assert float(fast.squared_norm(w, pieces)) == pytest.approx(float(found.square().sum()), rel=1e-4)
    return found


def assert_trains_like(
    loss: Loss,
    crosscoder: Crosscoder,
    reference: Callable[[Crosscoder, Tensor, int], Dense],
    code_normalisation: str = "crosscoder",
    dtype: torch.dtype = torch.float32,
    data: Callable[[int], Tensor] = batch,
) -> list[Parts]:
    """Compare loss, reconstruction, counts and gradients at each of STEPS Adam steps, then the weights.

    Triton's kernels are interpreted here: then there are INTERPRETED steps, and the gradients of two of them.
    ``reference`` computes with a twin of ``dtype``. ``data`` gives the batch of a step.
    """
    twin = random_crosscoder(WIDTH, LATENTS, code_normalisation=code_normalisation)
    if crosscoder.has_thresholds:
        twin.give_thresholds(learned=crosscoder.log_threshold is not None)
    twin.load_state_dict(crosscoder.state_dict())
    twin.to(dtype)
    start = {name: parameter.detach().clone() for name, parameter in crosscoder.named_parameters()}
    optimiser, reference_optimiser = (
        new_optimiser(crosscoder, loss),
        torch.optim.Adam(twin.parameters(), lr=1e-2),
    )
    seen, interpreted = [], kernels.of(next(iter(twin.parameters()))) is not None
    steps = INTERPRETED if interpreted else STEPS
    for step in range(steps):
        parts, expected = loss(crosscoder, data(step), step), reference(twin, data(step).to(dtype), step)
        assert_same(parts.loss, expected.loss, f"loss at step {step}")
        assert_same(parts.reconstruction, expected.reconstruction, f"reconstruction at step {step}")
        assert parts.fired.tolist() == (expected.codes > 0).sum(dim=0).tolist()
        reference_optimiser.zero_grad()
        parts.loss.backward()
        loss.change_gradients(crosscoder)  # the optimiser does it again, which changes nothing
        expected.loss.backward()
        compared = step % 6 == 0 or not crosscoder.pieces
        for name, wanted in twin.named_parameters() if compared else ():
            assert_same(gradient(crosscoder, name), wanted.grad, f"gradient of {name} at step {step}")
        clipped = 0.5 * torch.nn.utils.get_total_norm([parameter.grad for parameter in twin.parameters()])
        torch.nn.utils.clip_grad_norm_(twin.parameters(), clipped)
        optimiser.update(1e-2, float(clipped))
        reference_optimiser.step()
        seen.append(parts)
    for (name, found), wanted in zip(crosscoder.named_parameters(), twin.parameters(), strict=True):
        assert_same(found, wanted, f"{name} after {steps} steps")
        assert not torch.equal(found, start[name])
    return seen


def new_l1(**changes) -> tuple[Loss, Crosscoder]:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    return new_loss(crosscoder, l1_settings(**changes)), crosscoder


def new_batchtopk(**changes) -> tuple[Loss, Crosscoder]:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    return new_loss(crosscoder, batchtopk_settings(**{"k": 3} | changes)), crosscoder
