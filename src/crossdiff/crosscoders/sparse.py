"""Codes as their active entries: everything after the encoder product costs what is active, not batch x latents.

A code matrix f (batch, latents) is kept as ``Active``: entry e has row r_e, latent j_e and value f_e = relu(<x_{r_e}, encoder_{j_e}> +
bias_{j_e}), in order of rows. The encoder product only finds the entries, in blocks of rows that fit the cache and, if asked, in
bfloat16; their values are computed anew in full precision, so that nothing but the choice of entries near a threshold can depend on the
product's precision.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.crosscoders import ranks
from crossdiff.device import multiplies_bfloat16

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")  # said once, by every training

BLOCK_ROWS = 256
GUESS_ROWS, GUESS_SAMPLE = 64, 65_536  # rows and entries from which the bound of a selection is guessed
# Relative error of a product, generously: an entry this close below a bound is looked at, too. At a bound of 0 (L1) the product itself
# decides which of the entries near 0 are positive: in bfloat16 some 0.2 % of the active ones differ, the weakest.
SLACK = {"float32": 1e-4, "bfloat16": 2**-5}
# Share of active entries from which the dense products are the faster ones (measured, docs/performance.md).
DENSE_ABOVE = {"float32": 0.12, "bfloat16": 0.03}


class Active(NamedTuple):
    """The active entries of a (batch, latents) matrix, ordered by row."""

    rows: Tensor  # (entries,) int64
    latents: Tensor  # (entries,) int64
    values: Tensor  # (entries,) float
    shape: tuple[int, int]  # batch, latents

    @classmethod
    def of(cls, codes: Tensor) -> "Active":
        """The positive entries of dense ``codes``."""
        rows, latents = codes.nonzero().unbind(1)
        return cls(rows, latents, codes[rows, latents], tuple(codes.shape))

    def of_latents(self, chosen: Tensor) -> "Active":
        """The entries of the latents that are True in ``chosen`` (latents,)."""
        kept = chosen[self.latents]
        return Active(self.rows[kept], self.latents[kept], self.values[kept], self.shape)

    def offsets(self) -> Tensor:
        """(batch,): the first entry of every row."""
        return torch.searchsorted(self.rows, torch.arange(self.shape[0], device=self.rows.device))

    def by_latent(self) -> tuple[Tensor, Tensor]:
        """(entries,): the entries latent by latent; (latents + 1,): where each latent's begin in that order, and their end."""
        latents, order = torch.sort(self.latents, stable=True)
        return order, torch.searchsorted(latents, torch.arange(self.shape[1] + 1, device=latents.device))

    def keep(self, mask: Tensor) -> "Active":
        """The entries where ``mask`` (entries,) holds."""
        return Active(self.rows[mask], self.latents[mask], self.values[mask], self.shape)

    def dense(self) -> Tensor:
        """(batch, latents)."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.latents), self.values)

    def sum_per_latent(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (entries,) over the entries of each latent: (latents,)."""
        return values.new_zeros(self.shape[1]).index_add(0, self.latents, values)

    def count_per_latent(self) -> Tensor:
        """(latents,) int64: in how many rows each latent is active."""
        return torch.zeros(self.shape[1], dtype=torch.long, device=self.rows.device).index_add_(0, self.latents, (self.values > 0).long())


@dataclass(frozen=True, eq=False)
class Encoder:
    """What turns activations into codes, for one step. Its products are of ``precision`` "float32" or "bfloat16"."""

    weight: Tensor  # (latents, width)
    bias: Tensor  # (latents,)
    precision: str = "float32"

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the products take them."""
        if self.precision == "float32":
            return self.weight, self.bias
        weight, bias = self.weight.bfloat16(), self.bias.bfloat16()
        if not multiplies_bfloat16(weight.device):  # the same numbers, at the speed of float32
            weight, bias = weight.float(), bias.float()
        return weight, bias

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        """<x_r, weight_j> + bias_j of ``x`` (batch, width), BLOCK_ROWS rows at a time: (rows, latents)."""
        weight, bias = self._factors
        rows = x.bfloat16() if self.precision == "bfloat16" else x
        for block in rows.to(weight.dtype).split(BLOCK_ROWS):
            yield torch.addmm(bias, block, weight.T)

    def values(self, x: Tensor, active: Active) -> Active:
        """``active`` with its values computed from ``x`` in full precision."""
        return active._replace(values=(dot_products(self.weight, active, x) + self.bias[active.latents]).relu_())


def _entries(blocks: Iterator[Tensor], bounds: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """(rows, latents) of all entries above ``bounds`` (latents,), none of them negative, in order."""
    found, first = [], 0
    for block in blocks:
        # Read as whole numbers, floating point numbers that are not negative keep their order, and negative ones stay below them.
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[block.element_size()]
        found.append(_places(block.view(whole) > bounds.to(block.dtype).view(whole)) + first * latents)
        first += len(block)
    flat = torch.cat(found)
    rows = torch.div(flat, latents, rounding_mode="floor")
    return rows, flat - rows * latents


def _places(mask: Tensor) -> Tensor:
    """The places in the flattened ``mask`` that are True, few of them: most words of eight are passed over as a whole."""
    mask = mask.flatten()
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(torch.int64).nonzero().squeeze(1)
    word, place = mask[:whole].view(-1, 8)[words].nonzero().unbind(1)
    return torch.cat([words[word] * 8 + place, mask[whole:].nonzero().squeeze(1) + whole])


def above(encoder: Encoder, x: Tensor, bounds: Tensor) -> Active:
    """Entries of relu(encoder x), from ``x`` (batch, width), whose value is positive and exceeds ``bounds`` (latents,)."""
    shape, bounds = (len(x), len(encoder.weight)), bounds.clamp_min(0)
    rows, latents = _entries(encoder.blocks(x), bounds * (1 - SLACK[encoder.precision]), shape[1])
    active = encoder.values(x, Active(rows, latents, rows.new_empty(0), shape))
    return active.keep(active.values > bounds[active.latents])


def largest(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> tuple[Active, Tensor, Tensor]:
    """The positive entries f of relu(encoder x) with the ``count`` largest scaled values f_e w_{j_e}, for each column of ``weights``
    (latents, 1 or model), exactly; of equal values as many as are needed. On several ranks, the ``count`` x ranks largest of all of them.

    Gives all of them, which were chosen for which column (column, entries), and each column's smallest scaled value (column,), infinite
    where there is none. A sample gives a bound that a little more than ``count`` entries exceed, and only these are ranked; where the
    guess was too high, all are.
    """
    everywhere = count * ranks.size()
    for guess in (ranks.least(_guess(encoder, x, weights, count)), torch.zeros_like(weights[0])):
        candidates = above(encoder, x, (guess / weights).nan_to_num(nan=torch.inf).amin(dim=1))
        scaled, mine = ranks.gathered((candidates.values * weights[candidates.latents].T).T)
        scaled = scaled.T  # (column, entries), of all ranks
        if not guess.any() or ((scaled > guess[:, None]).sum(dim=1) >= everywhere).all():
            break
    chosen = torch.zeros_like(scaled, dtype=torch.bool)
    chosen.scatter_(1, scaled.topk(min(everywhere, scaled.shape[1]), dim=1, sorted=False).indices, True)
    chosen &= scaled > 0
    smallest = scaled.masked_fill(~chosen, torch.inf).amin(dim=1) if scaled.shape[1] else torch.full_like(guess, torch.inf)
    chosen = chosen[:, mine]
    used = chosen.any(dim=0)
    return candidates.keep(used), chosen[:, used], smallest


def _guess(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> Tensor:
    """(column,): scaled values that probably somewhat more than ``count`` entries exceed, from a sample of the first rows; 0 if few do."""
    block = next(encoder.blocks(x[:GUESS_ROWS]))
    place = torch.arange(0, block.numel(), max(1, block.numel() // GUESS_SAMPLE) | 1, device=x.device)  # odd steps meet every latent
    scaled = block.flatten()[place].to(weights.dtype)[:, None] * weights[place % len(weights)]
    expected = count / (len(x) * len(weights)) * len(place)
    rank = min(len(place), int(1.15 * expected + 4 * expected**0.5) + 4)
    return scaled.topk(rank, dim=0, sorted=False).values.amin(dim=0).clamp_min(0)


def is_sparse(encoder: Encoder, x: Tensor) -> bool:
    """Whether few enough entries are positive, judged by the first rows, that sparse operations pay."""
    return bool((next(encoder.blocks(x[:GUESS_ROWS])) > 0).float().mean() < DENSE_ABOVE[encoder.precision])


def weighted_rows(weight: Tensor, active: Active) -> Tensor:
    """out_r = sum_e [r_e = r] f_e weight_{j_e}: (batch, width) from ``weight`` (latents, width). Differentiable.

    The gradients are as sparse: for f_e it is <weight_{j_e}, g_{r_e}>, for weight_j it is sum_e [j_e = j] f_e g_{r_e}, with g the
    gradient of out.
    """
    return _WeightedRows.apply(active.values, weight, active)


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor, active: Active) -> Tensor:
        ctx.save_for_backward(weight, active.rows, active.latents, values)
        ctx.shape = active.shape
        return functional.embedding_bag(active.latents, weight, active.offsets(), mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, rows, latents, values = ctx.saved_tensors
        active = Active(rows, latents, values, ctx.shape)
        of_values = dot_products(weight, active, gradient) if ctx.needs_input_grad[0] else None
        of_weight = rows_per_latent(active, values, gradient) if ctx.needs_input_grad[1] else None
        return of_values, of_weight, None


def dot_products(weight: Tensor, active: Active, x: Tensor) -> Tensor:
    """out_e = <weight_{j_e}, x_{r_e}>: (entries,) from ``weight`` (latents, width) and ``x`` (batch, width). No gradient.

    A sampled product of dense matrices: no (entries, width) tensor is made. Latent by latent, so that each row of ``weight``, the larger
    matrix, is read once, and the rows of ``x`` from the cache.
    """
    order, bounds = active.by_latent()
    nothing = x.new_zeros(len(order))
    places = torch.sparse_csr_tensor(bounds, active.rows[order], nothing, active.shape[::-1], check_invariants=False)
    products = torch.sparse.sampled_addmm(places, weight.detach().contiguous(), x.contiguous().T, beta=0).values()
    return torch.empty_like(nothing).index_put_((order,), products)


def rows_per_latent(active: Active, values: Tensor, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] values_e x_{r_e}: (latents, width) from ``x`` (batch, width). Transposes ``weighted_rows``. No gradient."""
    order, bounds = active.by_latent()
    return functional.embedding_bag(active.rows[order], x, bounds[:-1], mode="sum", per_sample_weights=values[order])


class _Encoded(torch.autograd.Function):
    """Hands on values that are known already, and sends their gradient to the encoder's active entries alone."""

    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor, bias: Tensor, x: Tensor, active: Active) -> Tensor:
        ctx.save_for_backward(x, active.rows, active.latents)
        ctx.shape = active.shape
        return values.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, rows, latents = ctx.saved_tensors
        active = Active(rows, latents, gradient, ctx.shape)
        return None, rows_per_latent(active, gradient, x), active.sum_per_latent(gradient), None, None


def encoded(active: Active, encoder: Encoder, x: Tensor) -> Active:
    """The same entries, differentiable: f_e = <x_{r_e}, weight_{j_e}> + bias_{j_e}, whose positive values are given; x gets no gradient."""
    return active._replace(values=_Encoded.apply(active.values, encoder.weight, encoder.bias, x, active))
