"""Codes as lists of active entries.

Everything after the encoder's product costs time and memory for active entries only, not for batch x latents.
A code matrix f (batch, latents) is kept as ``Active``: entry e has row r_e, latent j_e and value f_e. Entries
are in the order of rows, and of latents within a row. Triton kernels compute the products where they run
(``kernels.of``). PyTorch's operations compute the same numbers elsewhere.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.crosscoders import kernels
from crossdiff.crosscoders.gradients import Context, Gathered, Pieces

# PyTorch prints this in every training.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


class Order(NamedTuple):
    """Entries sorted by latent."""

    entries: Tensor  # (entries,) the numbers of the entries in this order
    latents: Tensor  # (entries,) their latents, ascending
    rows: Tensor  # (entries,) their rows
    bounds: Tensor  # (latents + 1,): entries bounds[j] to bounds[j + 1] belong to latent j


@dataclass(frozen=True, eq=False)
class Places:
    """Which entries of a (batch, latents) matrix are active, in the order of rows, and of latents in a row.

    Other orders are computed once, on first use.
    """

    rows: Tensor  # (entries,) int64
    latents: Tensor  # (entries,) int64
    shape: tuple[int, int]  # batch, latents

    @classmethod
    def of(cls, flat: Tensor, shape: tuple[int, int]) -> "Places":
        """Make them from ascending places in the flattened matrix of ``shape``, (entries,) int64."""
        rows = torch.div(flat, shape[1], rounding_mode="floor")
        return cls(rows, flat - rows * shape[1], shape)

    @cached_property
    def offsets(self) -> Tensor:
        """(batch,) int64: the first entry of every row."""
        return torch.searchsorted(self.rows, torch.arange(self.shape[0], device=self.rows.device))

    @cached_property
    def by_latent(self) -> Order:
        """The entries in the order of latents, and of rows within a latent."""
        # With int32, half the digits, a GPU sorts in half the time.
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
        """Return the entries of dense ``codes`` (batch, latents) that are not 0."""
        rows, latents = codes.nonzero().unbind(1)
        batch, n_latents = codes.shape
        return cls(Places(rows, latents, (batch, n_latents)), codes[rows, latents])

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
        """Return the entries where ``mask`` (entries,) is true."""
        return self.at(mask.nonzero().squeeze(1))

    def at(self, entries: Tensor) -> "Active":
        """Return the entries with the numbers ``entries`` (n,), which ascend."""
        return Active(Places(self.rows[entries], self.latents[entries], self.shape), self.values[entries])

    def dense(self) -> Tensor:
        """Return the same codes as a dense (batch, latents)."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.latents), self.values)

    def sum_per_latent(self, values: Tensor) -> Tensor:
        """Sum ``values`` (entries,) over the entries of each latent: (latents,)."""
        return values.new_zeros(self.shape[1]).index_add(0, self.latents, values)

    def count_per_latent(self) -> Tensor:
        """Return the number of rows in which each latent is active, (latents,) int64."""
        return torch.zeros(self.shape[1], dtype=torch.long, device=self.rows.device).index_add_(
            0, self.latents, (self.values > 0).long()
        )


def weighted_rows(weight: Tensor, active: Active, pieces: Pieces | None = None) -> Tensor:
    """out_r = sum_e [r_e = r] f_e weight_{j_e}: (batch, width) from ``weight`` (latents, width).

    It is differentiable. The gradients are sparse, too. With g the gradient of out, f_e gets <weight_{j_e},
    g_{r_e}>, and weight_j gets sum_e [j_e = j] f_e g_{r_e}. If ``pieces`` are given, the gradient of
    ``weight`` is noted there instead of computed.
    """
    return _WeightedRows.apply(active.values, weight, active.places, pieces)


def grouped_rows(weight: Tensor, active: Active, ends: Tensor, pieces: Pieces | None = None) -> Tensor:
    """Compute ``weighted_rows`` for each group of latents alone: (batch, group, width).

    ``ends`` (group,) int64 ascends. Group g has the latents ends[g - 1] to ends[g] - 1, the first group those
    before ends[0]. It costs what ``weighted_rows`` does.
    """
    groups, (batch, latents) = len(ends), active.shape
    group = torch.bucketize(active.latents, ends, right=True)
    places = Places(active.rows * groups + group, active.latents, (batch * groups, latents))
    return weighted_rows(weight, Active(places, active.values), pieces).unflatten(0, (batch, groups))


class PlacesContext(Context, Protocol):
    """What an operation on active entries keeps for its backward pass."""

    places: Places
    pieces: Pieces | None


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: PlacesContext, values: Tensor, weight: Tensor, places: Places, pieces: Pieces | None
    ) -> Tensor:
        ctx.save_for_backward(weight, values)
        ctx.places, ctx.pieces = places, pieces
        if (fast := kernels.of(weight)) is not None:
            return fast.weighted_rows(weight, places.latents, values, places.offsets)
        return functional.embedding_bag(
            places.latents, weight, places.offsets, mode="sum", per_sample_weights=values
        )

    @staticmethod
    def backward(ctx: PlacesContext, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, values = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_values = of_weight = None
        if ctx.needs_input_grad[0]:
            of_values = dot_products(weight, ctx.places, gradient)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(Active(ctx.places, values), gradient, ctx.pieces)
        return of_values, of_weight, None, None


def weight_gradient(active: Active, x: Tensor, pieces: Pieces | None) -> Tensor | None:
    """Compute ``rows_per_latent``. With ``pieces`` it is noted there instead, and the result is None."""
    if pieces is None:
        return rows_per_latent(active, x)
    order = active.places.by_latent
    pieces.gathered.append(Gathered(order.rows, active.values[order.entries], order.bounds, x))
    return None


def dot_products(weight: Tensor, places: Places, x: Tensor) -> Tensor:
    """out_e = <weight_{j_e}, x_{r_e}>: (entries,), from ``weight`` (latents, width), ``x`` (batch, width).

    It has no gradient. It is a sampled product of dense matrices, and no (entries, width) tensor is made.
    Entries are taken in the order of latents. So each row of ``weight``, the larger matrix, is read from
    memory once, and the rows of ``x`` come from the cache.
    """
    order = places.by_latent
    if (fast := kernels.of(weight)) is not None:
        return fast.dot_products(weight.detach(), x.contiguous(), order.entries, order.latents, order.rows)
    nothing, shape = x.new_zeros(len(order.rows)), places.shape[::-1]
    mask = torch.sparse_csr_tensor(order.bounds, order.rows, nothing, shape, check_invariants=False)
    w = weight.detach().contiguous()
    products = torch.sparse.sampled_addmm(mask, w, x.contiguous().T, beta=0).values()
    return torch.empty_like(nothing).index_put_((order.entries,), products)


def rows_per_latent(active: Active, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] f_e x_{r_e}: (latents, width) from ``x`` (batch, width).

    It is the transpose of ``weighted_rows`` and has no gradient.
    """
    order = active.places.by_latent
    values = active.values[order.entries]
    if (fast := kernels.of(x)) is not None:
        return fast.rows_per_latent(order.rows, values, order.bounds, x.contiguous())
    return functional.embedding_bag(order.rows, x, order.bounds[:-1], mode="sum", per_sample_weights=values)
