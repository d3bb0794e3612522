"""Codes as their active entries: everything after the encoder product costs what is active, not batch x latents.

A code matrix f (batch, latents) is kept as ``Active``: entry e has row r_e, latent j_e and value f_e, in order of rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DENSE_ABOVE = 0.12  # share of active entries from which the dense products are the faster ones (measured, docs/performance.md)


class Active(NamedTuple):
    """The active entries of a (batch, latents) matrix, ordered by row."""

    rows: Tensor  # (entries,) int64
    latents: Tensor  # (entries,) int64
    values: Tensor  # (entries,) float32
    shape: tuple[int, int]  # batch, latents

    @classmethod
    def of(cls, codes: Tensor) -> "Active":
        """The positive entries of dense ``codes``."""
        flat = codes.flatten().nonzero().squeeze(1)
        return cls.at(flat, codes)

    @classmethod
    def at(cls, flat: Tensor, codes: Tensor) -> "Active":
        """The entries of dense ``codes`` at the flat indices, which must be in increasing order."""
        batch, latents = codes.shape
        rows = torch.div(flat, latents, rounding_mode="floor")
        return cls(rows, flat - rows * latents, codes.flatten()[flat], (batch, latents))

    def of_latents(self, chosen: Tensor) -> "Active":
        """The entries of the latents that are True in ``chosen`` (latents,)."""
        kept = chosen[self.latents]
        return Active(self.rows[kept], self.latents[kept], self.values[kept], self.shape)

    def offsets(self) -> Tensor:
        """(batch,): the first entry of every row."""
        counts = torch.bincount(self.rows, minlength=self.shape[0])
        return torch.cumsum(counts, 0) - counts

    def dense(self) -> Tensor:
        """(batch, latents)."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.latents), self.values)

    def sum_per_latent(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (entries,) over the entries of each latent: (latents,)."""
        return values.new_zeros(self.shape[1]).index_add(0, self.latents, values)


def largest(values: Tensor, count: int, samples: int = 65_536) -> Tensor:
    """Indices, in increasing order, of the ``count`` largest of ``values`` (n,), exactly.

    A sample gives a bound that a little more than ``count`` values exceed; only these are sorted. Where the guess was too high, all are.
    """
    count = min(count, len(values))
    stride = max(1, len(values) // samples)
    if stride > 1:
        sample = values[::stride]
        bound = sample.topk(min(len(sample), 64 + count * 5 // (4 * stride)), sorted=False).values.min()
        candidates = (values > bound).nonzero().squeeze(1)
        if len(candidates) >= count:
            return candidates[values[candidates].topk(count, sorted=False).indices].sort().values
    return values.topk(count, sorted=False).indices.sort().values


def weighted_rows(weight: Tensor, active: Active) -> Tensor:
    """out_r = sum_e [r_e = r] f_e weight_{j_e}: (batch, width) from ``weight`` (latents, width).

    Its gradients, for f_e the dot product of weight_{j_e} with the gradient of row r_e, and for weight_j the f-weighted sum of these rows,
    are just as sparse (torch.embedding_bag).
    """
    return functional.embedding_bag(active.latents, weight, active.offsets(), mode="sum", per_sample_weights=active.values)


def rows_per_latent(active: Active, values: Tensor, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] values_e x_{r_e}: (latents, width) from ``x`` (batch, width). The transpose of ``weighted_rows``."""
    order = torch.argsort(active.latents, stable=True)
    counts = torch.bincount(active.latents, minlength=active.shape[1])
    offsets = torch.cumsum(counts, 0) - counts
    return functional.embedding_bag(active.rows[order], x, offsets, mode="sum", per_sample_weights=values[order])


class _Encoded(torch.autograd.Function):
    """Hands on values that are known already, and sends their gradient to the encoder's active entries alone."""

    @staticmethod
    def forward(ctx, values: Tensor, encoder: Tensor, bias: Tensor, x: Tensor, active: Active) -> Tensor:
        ctx.save_for_backward(x, active.rows, active.latents)
        ctx.shape = active.shape
        return values.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, rows, latents = ctx.saved_tensors
        active = Active(rows, latents, gradient, ctx.shape)
        return None, rows_per_latent(active, gradient, x), active.sum_per_latent(gradient), None, None


def encoded(active: Active, encoder: Tensor, bias: Tensor, x: Tensor) -> Active:
    """The same entries, differentiable: f_e = <x_{r_e}, encoder_{j_e}> + bias_{j_e}, whose values are given.

    ``encoder`` (latents, width), ``bias`` (latents,), ``x`` (batch, width); x gets no gradient.
    """
    return active._replace(values=_Encoded.apply(active.values, encoder, bias, x, active))
