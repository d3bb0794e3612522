"""Codes as their active entries: everything after the encoder product costs what is active, not batch x latents.

A code matrix f (batch, latents) is kept as ``Active``: entry e has row r_e, latent j_e and value f_e, in order of rows. Where they run
(``kernels.of``) the products are Triton kernels, elsewhere operations of PyTorch; the numbers are the same.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.crosscoders import kernels
from crossdiff.crosscoders.gradients import Pieces

warnings.filterwarnings(
    "ignore", message="Sparse CSR tensor support is in beta state"
)  # said once, by every training


class Order(NamedTuple):
    """Entries latent by latent."""

    entries: Tensor  # (entries,) which entry stands at each place
    latents: Tensor  # (entries,) their latents, ascending
    rows: Tensor  # (entries,) their rows
    bounds: Tensor  # (latents + 1,): where each latent's begin, and their end


@dataclass(frozen=True, eq=False)
class Places:
    """Which entries of a (batch, latents) matrix are active, ordered by row. Other orders are worked out once, when first asked for."""

    rows: Tensor  # (entries,) int64
    latents: Tensor  # (entries,) int64
    shape: tuple[int, int]  # batch, latents

    @classmethod
    def of(cls, flat: Tensor, shape: tuple[int, int]) -> "Places":
        """From ascending places in the flattened matrix, (entries,) int64."""
        rows = torch.div(flat, shape[1], rounding_mode="floor")
        return cls(rows, flat - rows * shape[1], shape)

    @cached_property
    def offsets(self) -> Tensor:
        """(batch,): the first entry of every row."""
        return torch.searchsorted(self.rows, torch.arange(self.shape[0], device=self.rows.device))

    @cached_property
    def by_latent(self) -> Order:
        # Half the digits, half the time of a GPU's sort.
        ascending, entries = torch.sort(self.latents.int(), stable=True)
        bounds = torch.searchsorted(
            ascending, torch.arange(self.shape[1] + 1, dtype=torch.int32, device=ascending.device)
        )
        return Order(entries, ascending.long(), self.rows[entries], bounds)


class Active(NamedTuple):
    """The active entries of a (batch, latents) matrix."""

    places: Places
    values: Tensor  # (entries,) float

    @classmethod
    def of(cls, codes: Tensor) -> "Active":
        """The positive entries of dense ``codes``."""
        rows, latents = codes.nonzero().unbind(1)
        return cls(Places(rows, latents, tuple(codes.shape)), codes[rows, latents])

    @property
    def rows(self) -> Tensor:
        return self.places.rows

    @property
    def latents(self) -> Tensor:
        return self.places.latents

    @property
    def shape(self) -> tuple[int, int]:
        return self.places.shape

    def keep(self, mask: Tensor) -> "Active":
        """The entries where ``mask`` (entries,) holds."""
        return self.at(mask.nonzero().squeeze(1))

    def at(self, entries: Tensor) -> "Active":
        """The entries of these numbers, which ascend."""
        return Active(Places(self.rows[entries], self.latents[entries], self.shape), self.values[entries])

    def dense(self) -> Tensor:
        """(batch, latents)."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.latents), self.values)

    def sum_per_latent(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (entries,) over the entries of each latent: (latents,)."""
        return values.new_zeros(self.shape[1]).index_add(0, self.latents, values)

    def count_per_latent(self) -> Tensor:
        """(latents,) int64: in how many rows each latent is active."""
        return torch.zeros(self.shape[1], dtype=torch.long, device=self.rows.device).index_add_(
            0, self.latents, (self.values > 0).long()
        )


def weighted_rows(weight: Tensor, active: Active, pieces: Pieces | None = None) -> Tensor:
    """out_r = sum_e [r_e = r] f_e weight_{j_e}: (batch, width) from ``weight`` (latents, width). Differentiable.

    The gradients are as sparse: for f_e it is <weight_{j_e}, g_{r_e}>, for weight_j it is sum_e [j_e = j] f_e g_{r_e}, with g the
    gradient of out. With ``pieces`` the latter is not made, but noted there.
    """
    return _WeightedRows.apply(active.values, weight, active.places, pieces)


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor, places: Places, pieces: Pieces | None) -> Tensor:
        ctx.save_for_backward(weight, values)
        ctx.places, ctx.pieces = places, pieces
        if (fast := kernels.of(weight)) is not None:
            return fast.weighted_rows(weight, places.latents, values, places.offsets)
        return functional.embedding_bag(
            places.latents, weight, places.offsets, mode="sum", per_sample_weights=values
        )

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, values = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_values = dot_products(weight, ctx.places, gradient) if ctx.needs_input_grad[0] else None
        of_weight = (
            weight_gradient(Active(ctx.places, values), gradient, ctx.pieces)
            if ctx.needs_input_grad[1]
            else None
        )
        return of_values, of_weight, None, None


def weight_gradient(active: Active, x: Tensor, pieces: Pieces | None) -> Tensor | None:
    """``rows_per_latent``, or None where it is noted in ``pieces`` instead."""
    if pieces is None:
        return rows_per_latent(active, x)
    order = active.places.by_latent
    pieces.gathered.append((order, active.values[order.entries], x))
    return None


def dot_products(weight: Tensor, places: Places, x: Tensor) -> Tensor:
    """out_e = <weight_{j_e}, x_{r_e}>: (entries,) from ``weight`` (latents, width) and ``x`` (batch, width). No gradient.

    A sampled product of dense matrices: no (entries, width) tensor is made. Latent by latent, so that each row of ``weight``, the larger
    matrix, is read once, and the rows of ``x`` from the cache.
    """
    order = places.by_latent
    if (fast := kernels.of(weight)) is not None:
        return fast.dot_products(weight.detach(), x.contiguous(), order.entries, order.latents, order.rows)
    nothing = x.new_zeros(len(order.rows))
    mask = torch.sparse_csr_tensor(
        order.bounds, order.rows, nothing, places.shape[::-1], check_invariants=False
    )
    products = torch.sparse.sampled_addmm(
        mask, weight.detach().contiguous(), x.contiguous().T, beta=0
    ).values()
    return torch.empty_like(nothing).index_put_((order.entries,), products)


def rows_per_latent(active: Active, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] f_e x_{r_e}: (latents, width) from ``x`` (batch, width). Transposes ``weighted_rows``. No gradient."""
    order = active.places.by_latent
    values = active.values[order.entries]
    if (fast := kernels.of(x)) is not None:
        return fast.rows_per_latent(order.rows, values, order.bounds, x.contiguous())
    return functional.embedding_bag(order.rows, x, order.bounds[:-1], mode="sum", per_sample_weights=values)
