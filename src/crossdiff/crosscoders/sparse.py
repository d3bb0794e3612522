"""Codes as their active entries: everything after the encoder product costs what is active, not batch x latents.

A code matrix f (batch, latents) is kept as ``Active``: entry e has row r_e, latent j_e and value f_e = relu(<x_{r_e}, encoder_{j_e}> +
bias_{j_e}), in order of rows. The encoder product only finds the entries, in blocks of rows that fit the cache and, if asked, in
bfloat16; their values are computed anew in full precision, so that nothing but the choice of entries near a threshold can depend on the
product's precision.
"""

import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.crosscoders import ranks
from crossdiff.device import is_synchronous, multiplies_bfloat16

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")  # said once, by every training

BLOCK_ROWS = 512
GUESS_SAMPLE = 262_144  # entries of the first block from which the bound of a selection is guessed
# Error of a product relative to its bound and the bias, generously: an entry this close below a bound is looked at, too. It is larger where
# the terms of a product are much larger than their sum. Where both are 0 (L1) the product itself decides which of the entries near 0 are
# positive: in bfloat16 some 0.2 % of the active ones differ, the weakest.
SLACK = {"float32": 1e-4, "bfloat16": 2**-5}
# Share of active entries from which the dense products are the faster ones, measured on 2 CPU cores.
DENSE_ABOVE = {"float32": 0.12, "bfloat16": 0.05}


class Order(NamedTuple):
    """Entries latent by latent."""

    entries: Tensor  # (entries,) which entry stands at each place
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
        latents, entries = torch.sort(self.latents, stable=True)
        return Order(entries, self.rows[entries], torch.searchsorted(latents, torch.arange(self.shape[1] + 1, device=latents.device)))


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

    def of_latents(self, chosen: Tensor) -> "Active":
        """The entries of the latents that are True in ``chosen`` (latents,)."""
        return self.keep(chosen[self.latents])

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
    def _factor(self) -> Tensor:
        """The weight as the products take it."""
        if self.precision == "float32":
            return self.weight.detach()
        rounded = self.weight.detach().bfloat16()
        return rounded if multiplies_bfloat16(rounded.device) else rounded.float()  # the same numbers, at the speed of float32

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """<x_r, weight_j> of ``x`` (batch, width), BLOCK_ROWS rows at a time: (rows, latents)."""
        rows = x.bfloat16() if self.precision == "bfloat16" else x
        for block in rows.to(self._factor.dtype).split(BLOCK_ROWS):
            yield block @ self._factor.T

    def values(self, x: Tensor, places: Places) -> Tensor:
        """(entries,): relu(<x_r, weight_j> + bias_j) at ``places``, in full precision."""
        return (dot_products(self.weight, places, x) + self.bias[places.latents]).relu_()


def above(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None = None) -> Active:
    """Entries of relu(encoder x), from ``x`` (batch, width), whose value is positive and exceeds ``bounds`` (latents,).

    ``first`` is the first block of ``encoder.products(x)``, if it is known already; it is overwritten.
    """
    bounds, slack = bounds.clamp_min(0), SLACK[encoder.precision]
    places = _places(encoder, x, (1 - slack) * bounds - encoder.bias - slack * encoder.bias.abs(), first)
    active = Active(places, encoder.values(x, places))
    return active.keep(active.values > bounds[active.latents])


def _places(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None) -> Places:
    """Where products exceed ``bounds`` (latents,)."""
    known = [] if first is None else [first]
    found, done, latents = [], 0, len(encoder.weight)
    for block in itertools.chain(known, encoder.products(x[sum(map(len, known)) :])):
        found.append(_positive(block.sub_(bounds.to(block.dtype)).relu_()) + done * latents)
        done += len(block)
    return Places.of(torch.cat(found), (len(x), latents))


def _positive(block: Tensor) -> Tensor:
    """The places in the flattened ``block`` that are not zero, few of them: words of eight bytes are passed over as a whole."""
    flat = block.flatten()
    size = 8 // flat.element_size()
    whole = len(flat) // size * size
    words = flat[:whole].view(torch.int64).nonzero().squeeze(1)
    word, place = flat[:whole].view(-1, size)[words].nonzero().unbind(1)
    return torch.cat([words[word] * size + place, flat[whole:].nonzero().squeeze(1) + whole])


class Selection(NamedTuple):
    """What ``largest`` chose."""

    active: Active  # all chosen entries, and perhaps others, whose value is 0
    chosen: Tensor  # (column, entries) bool: for which column
    smallest: Tensor  # (column,): the smallest chosen scaled value, infinite where there is none
    exact: Tensor  # () bool: whether it is certain that no larger one was missed


def largest(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> Selection:
    """The positive entries f of relu(encoder x) with the ``count`` largest scaled values f_e w_{j_e}, for each column of ``weights``
    (latents, 1 or model); of equal values as many as are needed. On several ranks, the ``count`` x ranks largest of all of them. Exactly,
    as far as the product's error stays within SLACK.

    A sample gives a bound that a little more than ``count`` entries exceed, and only these are ranked; where the guess was too high, all
    are. How many that is must be asked of the device: ``_largest_of_candidates`` goes without where that means a wait.
    """
    if not is_synchronous(x.device):
        return _largest_of_candidates(encoder, x, weights, count)
    everywhere = count * ranks.size()
    first = next(encoder.products(x))
    probable = ranks.least(_guess(first, encoder.bias, weights, count / len(x)))
    for guess, known in ((probable, first), (torch.zeros_like(probable), None)):
        candidates = above(encoder, x, (guess / weights).nan_to_num(nan=torch.inf).amin(dim=1), known)
        scaled, mine = ranks.gathered((candidates.values * weights[candidates.latents].T).T)
        scaled = scaled.T  # (column, entries), of all ranks
        if not guess.any() or ((scaled > guess[:, None]).sum(dim=1) >= everywhere).all():
            break
    _, chosen, smallest = _ranked(scaled, everywhere)
    chosen = chosen[:, mine]
    used = chosen.any(dim=0)
    return Selection(candidates.keep(used), chosen[:, used], smallest, torch.ones((), dtype=torch.bool, device=x.device))


def _ranked(scaled: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest of each column of ``scaled`` (column, entries): their numbers (column, count), a mask (column, entries) of
    those that are positive, and the smallest of these (column,), infinite where there is none."""
    best = scaled.topk(min(count, scaled.shape[1]), dim=1, sorted=False).indices
    chosen = torch.zeros_like(scaled, dtype=torch.bool).scatter_(1, best, True)
    chosen &= scaled > 0
    smallest = scaled.masked_fill(~chosen, torch.inf).amin(dim=1) if scaled.shape[1] else scaled.new_full((len(scaled),), torch.inf)
    return best, chosen, smallest


def _largest_of_candidates(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> Selection:
    """``largest`` with shapes that are known beforehand, so that nothing is asked of the device: from 2 x ``count`` candidates a column.

    A candidate's product is among the largest for one of the columns, each measured in units of a guess of its smallest chosen value.
    Exact where all other entries are certainly smaller than what was chosen, or where there are none.
    """
    columns, everywhere = weights.shape[1], count * ranks.size()
    capacity = min(2 * count * columns, len(x) * len(weights))
    first = next(encoder.products(x))
    guess = _guess(first, encoder.bias, weights, count / len(x))
    units = torch.where(guess > 0, guess, 1.0)
    flat, others = _candidates(encoder, x, (weights / units).amax(dim=1), capacity, first)
    places = Places.of(flat.sort().values, (len(x), len(weights)))
    values = encoder.values(x, places)
    scaled, mine = ranks.gathered((values * weights[places.latents].T).T, equal=True)
    best, chosen, smallest = _ranked(scaled.T, everywhere)
    least = smallest.masked_fill(chosen.sum(dim=1) < everywhere, 0)  # where too few are positive, no other may be
    exact = ranks.least((others * units <= (1 - SLACK[encoder.precision]) * least).all().int()) > 0
    chosen = chosen[:, mine]
    active = Active(places, values.masked_fill_(~chosen.any(dim=0), 0))
    if columns == ranks.size() == 1:  # how many of the entries were chosen is known, too
        kept = best[0].sort().values
        active, chosen = active.at(kept), chosen[:, kept]
    return Selection(active, chosen, smallest, exact)


def _candidates(encoder: Encoder, x: Tensor, weight: Tensor, count: int, first: Tensor) -> tuple[Tensor, Tensor]:
    """The ``count`` entries with the largest bound relu(product + bias + slack |bias|) ``weight`` (latents,): their places in the flattened
    (batch, latents), in no order, and what the others' bounds are at most, (). A bound is at least (1 - slack) of the scaled value.

    ``first`` is the first block of ``encoder.products(x)``; it is overwritten.
    """
    bias, weight = (encoder.bias + SLACK[encoder.precision] * encoder.bias.abs()).to(first.dtype), weight.to(first.dtype)
    values, flat, done = first.new_empty(0), torch.empty(0, dtype=torch.long, device=x.device), 0
    for block in itertools.chain([first], encoder.products(x[len(first) :])):
        scaled = block.add_(bias).relu_().mul_(weight).flatten()
        top = scaled.topk(min(count, len(scaled)), sorted=False)
        values, flat = torch.cat([values, top.values]), torch.cat([flat, top.indices + done])
        values, best = values.topk(min(count, len(values)), sorted=False)
        flat = flat[best]
        done += len(scaled)
    return flat, values.amin() if count < done else values.new_zeros(())


def _guess(first: Tensor, bias: Tensor, weights: Tensor, per_row: float) -> Tensor:
    """(column,): scaled values that probably somewhat more than ``per_row`` entries a row exceed, from a sample of the first products;
    0 if few do."""
    step = max(1, first.numel() // GUESS_SAMPLE)
    while math.gcd(step, len(weights)) > 1:  # so that all latents are met
        step += 1
    place = torch.arange(0, first.numel(), step, device=first.device)
    latent = place % len(weights)
    scaled = (first.flatten()[place] + bias[latent])[:, None] * weights[latent]
    expected = per_row / len(weights) * len(place)
    rank = min(len(place), int(1.05 * expected + 3 * expected**0.5) + 4)
    return scaled.topk(rank, dim=0, sorted=False).values.amin(dim=0).clamp_min(0)


def is_sparse(encoder: Encoder, first: Tensor) -> bool:
    """Whether few enough entries are positive, judged by the first block of ``encoder.products``, that sparse operations pay."""
    return bool((first > -encoder.bias.to(first.dtype)).float().mean() < DENSE_ABOVE[encoder.precision])


def weighted_rows(weight: Tensor, active: Active) -> Tensor:
    """out_r = sum_e [r_e = r] f_e weight_{j_e}: (batch, width) from ``weight`` (latents, width). Differentiable.

    The gradients are as sparse: for f_e it is <weight_{j_e}, g_{r_e}>, for weight_j it is sum_e [j_e = j] f_e g_{r_e}, with g the
    gradient of out.
    """
    return _WeightedRows.apply(active.values, weight, active.places)


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(weight, values)
        ctx.places = places
        return functional.embedding_bag(places.latents, weight, places.offsets, mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, values = ctx.saved_tensors
        of_values = dot_products(weight, ctx.places, gradient) if ctx.needs_input_grad[0] else None
        of_weight = rows_per_latent(Active(ctx.places, values), gradient) if ctx.needs_input_grad[1] else None
        return of_values, of_weight, None


def dot_products(weight: Tensor, places: Places, x: Tensor) -> Tensor:
    """out_e = <weight_{j_e}, x_{r_e}>: (entries,) from ``weight`` (latents, width) and ``x`` (batch, width). No gradient.

    A sampled product of dense matrices: no (entries, width) tensor is made. Latent by latent, so that each row of ``weight``, the larger
    matrix, is read once, and the rows of ``x`` from the cache.
    """
    order = places.by_latent
    nothing = x.new_zeros(len(order.rows))
    mask = torch.sparse_csr_tensor(order.bounds, order.rows, nothing, places.shape[::-1], check_invariants=False)
    products = torch.sparse.sampled_addmm(mask, weight.detach().contiguous(), x.contiguous().T, beta=0).values()
    return torch.empty_like(nothing).index_put_((order.entries,), products)


def rows_per_latent(active: Active, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] f_e x_{r_e}: (latents, width) from ``x`` (batch, width). Transposes ``weighted_rows``. No gradient."""
    order = active.places.by_latent
    return functional.embedding_bag(order.rows, x, order.bounds[:-1], mode="sum", per_sample_weights=active.values[order.entries])


class _Encoded(torch.autograd.Function):
    """Hands on values that are known already, and sends their gradient to the encoder's active entries alone."""

    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor, bias: Tensor, x: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.places = places
        return values.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, values = ctx.saved_tensors
        gradient = gradient * (values > 0)
        active = Active(ctx.places, gradient)
        return None, rows_per_latent(active, x), active.sum_per_latent(gradient), None, None


def encoded(active: Active, encoder: Encoder, x: Tensor) -> Active:
    """The same entries, differentiable: f_e = relu(<x_{r_e}, weight_{j_e}> + bias_{j_e}), whose values are given; an entry of value 0
    hands on no gradient, and x gets none."""
    return active._replace(values=_Encoded.apply(active.values, encoder.weight, encoder.bias, x, active.places))
