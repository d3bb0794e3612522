"""Keep the gradient of a (latents, width) matrix as a list of terms that an optimiser sums up itself.

At 73,728 latents of width 4,608 a gradient takes 1.4 GB. Writing and reading it would cost as much as Adam's
own pass over the matrix.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

ALIGNED = 64


class Gathered(NamedTuple):
    """A sum over active entries, sorted by latent: row j of it is sum_e [j_e = j] f_e x_{r_e}."""

    rows: Tensor  # (entries,) r_e
    coefficients: Tensor  # (entries,) f_e
    bounds: Tensor  # (latents + 1,): entries bounds[j] to bounds[j + 1] belong to latent j
    x: Tensor  # (batch, width)


@dataclass
class Pieces:
    """The terms whose sum is a gradient.

    A loss adds them in its backward pass, through ``sparse``, ``selection``, ``rows_of`` and ``norms_of``.
    """

    gathered: list[Gathered] = field(default_factory=list)
    # Latents (n,), each of them once, and the gradient of their rows (n, width).
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    # Factors (latents, model). The gradient is the factor times that model's half of the matrix.
    scales: list[Tensor] = field(default_factory=list)

    def clear(self) -> None:
        """Drop all pieces after a step."""
        self.gathered.clear()
        self.rows.clear()
        self.scales.clear()


class Context(Protocol):
    """The parts of an autograd context that the operations of this package use."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def made_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient that a backward pass made for ``parameter``. Raises ValueError if it made none."""
    if parameter.grad is None:
        raise ValueError(f"a parameter of shape {tuple(parameter.shape)} has no gradient")
    return parameter.grad


def rows_of(weight: Tensor, latents: Tensor, pieces: Pieces | None) -> Tensor:
    """Return ``weight[latents]``, (n, width), from ``weight`` (latents, width). It is differentiable.

    With ``pieces`` only the gradient of these rows is kept, and noted there. Then rows of zeros are added up
    to a multiple of ALIGNED, because matrix units are slower on other sizes.
    """
    return weight[latents] if pieces is None else _RowsOf.apply(weight, latents, pieces)


class _RowsContext(Context, Protocol):
    latents: Tensor
    pieces: Pieces


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _RowsContext, weight: Tensor, latents: Tensor, pieces: Pieces) -> Tensor:
        ctx.latents, ctx.pieces = latents, pieces
        rows = weight.new_zeros(-(-len(latents) // ALIGNED) * ALIGNED, weight.shape[1])
        torch.index_select(weight, 0, latents, out=rows[: len(latents)])
        return rows

    @staticmethod
    def backward(ctx: _RowsContext, *gradients: Tensor) -> tuple[None, None, None]:
        (gradient,) = gradients
        ctx.pieces.rows.append((ctx.latents, gradient[: len(ctx.latents)]))
        return None, None, None


def norms_of(weight: Tensor, norms: Tensor, pieces: Pieces) -> Tensor:
    """Make ``norms`` (latents, model), which are known already, differentiable.

    They are the norms of the models' halves of ``weight`` (latents, width). The gradient is noted in
    ``pieces``.
    """
    return _NormsOf.apply(weight, norms, pieces)


class _NormsContext(Context, Protocol):
    pieces: Pieces


class _NormsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _NormsContext, weight: Tensor, norms: Tensor, pieces: Pieces) -> Tensor:
        ctx.save_for_backward(norms)
        ctx.pieces = pieces
        return norms.clone()

    @staticmethod
    def backward(ctx: _NormsContext, *gradients: Tensor) -> tuple[None, None, None]:
        (norms,), (gradient,) = ctx.saved_tensors, gradients
        ctx.pieces.scales.append(torch.where(norms > 0, gradient / norms, 0))  # a norm's gradient at 0 is 0
        return None, None, None
