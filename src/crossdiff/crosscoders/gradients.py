"""The gradient of a (latents, width) matrix as the pieces it is made of, for an optimiser that gathers them itself.

At 73,728 latents of width 4,608 a gradient is 1.4 GB; writing and reading it would cost as much as Adam's own pass over the matrix.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64


@dataclass
class Pieces:
    """What the gradient is the sum of. Losses fill it when they are differentiated (``sparse``, ``selection``, ``rows_of``)."""

    gathered: list[tuple[Any, Tensor, Tensor]] = field(
        default_factory=list
    )  # sparse.Order, coefficients in it (entries,), x (batch, width)
    rows: list[tuple[Tensor, Tensor]] = field(
        default_factory=list
    )  # latents (n,), each once, and their gradient (n, width)
    scales: list[Tensor] = field(
        default_factory=list
    )  # (latents, model): times that model's half of the matrix itself

    def clear(self) -> None:
        """After a step."""
        self.gathered.clear(), self.rows.clear(), self.scales.clear()


def rows_of(weight: Tensor, latents: Tensor, pieces: Pieces | None) -> Tensor:
    """``weight[latents]``, (n, width). Differentiable; with ``pieces`` the gradient stays one of these rows alone, and zero rows are added
    up to a multiple of ALIGNED: matrix units take no others at full speed."""
    return weight[latents] if pieces is None else _RowsOf.apply(weight, latents, pieces)


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, latents: Tensor, pieces: Pieces) -> Tensor:
        ctx.latents, ctx.pieces = latents, pieces
        rows = weight.new_zeros(-(-len(latents) // ALIGNED) * ALIGNED, weight.shape[1])
        torch.index_select(weight, 0, latents, out=rows[: len(latents)])
        return rows

    @staticmethod
    def backward(ctx, gradient: Tensor):
        ctx.pieces.rows.append((ctx.latents, gradient[: len(ctx.latents)]))
        return None, None, None


def norms_of(weight: Tensor, norms: Tensor, pieces: Pieces) -> Tensor:
    """``norms`` (latents, model) of the models' halves of ``weight`` (latents, width), known already, made differentiable."""
    return _NormsOf.apply(weight, norms, pieces)


class _NormsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, norms: Tensor, pieces: Pieces) -> Tensor:
        ctx.save_for_backward(norms)
        ctx.pieces = pieces
        return norms.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (norms,) = ctx.saved_tensors
        ctx.pieces.scales.append(torch.where(norms > 0, gradient / norms, 0))  # a norm's gradient at 0 is 0
        return None, None, None
