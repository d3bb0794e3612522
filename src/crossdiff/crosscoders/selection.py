"""Which entries of a code matrix are active: those above a bound, or the largest of a batch.

The encoder product only finds candidates, in blocks of rows and, if asked, in bfloat16; their values are computed anew in full precision,
so that nothing but the choice among values that are equal in float32 can depend on the product's precision.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from crossdiff.crosscoders import kernels, ranks
from crossdiff.crosscoders.gradients import Pieces
from crossdiff.crosscoders.sparse import Active, Places, dot_products, weight_gradient
from crossdiff.device import is_synchronous, multiplies_bfloat16

BLOCK_ROWS = 512  # on a CPU: a block fits its cache
BLOCK_ENTRIES = 2**28  # on a GPU
GUESS_SAMPLE, GUESS_SAMPLE_GPU = (
    262_144,
    2**20,
)  # entries of the first block from which the bound of a selection is guessed
# Error of a product relative to its bound and the bias, on a CPU, generously: an entry this close below a bound is looked at, too. It is
# larger where the terms of a product are much larger than their sum. On a GPU the error is bounded by norms (``Encoder.errors``), always.
# On a CPU, where both are 0 (L1), the product itself decides which of the entries near 0 are positive: in bfloat16 some 0.2 % of the active
# ones differ, the weakest.
SLACK = {"float32": 1e-4, "bfloat16": 2**-5}
FLOAT32_ERROR = (
    2**-16
)  # of a float32 product over the product of the norms: sums of up to 100,000 terms, in any order
# Share of active entries from which the dense products are the faster ones, measured on 2 CPU cores.
DENSE_ABOVE = {"float32": 0.12, "bfloat16": 0.05}


class Rounded(NamedTuple):
    """A matrix in bfloat16, and how far it is from the one in float32."""

    copy: Tensor  # (latents, width) bfloat16
    norms: Tensor  # (2, latents): of each row of the matrix, and of what rounding took from it

    @classmethod
    def of(cls, weight: Tensor) -> "Rounded":
        copy = weight.bfloat16()
        return cls(copy, torch.stack([weight.norm(dim=1), (weight - copy).norm(dim=1)]))


@dataclass(frozen=True, eq=False)
class Encoder:
    """What turns activations into codes, for one step. Its products are of ``precision`` "float32" or "bfloat16".

    ``known``: the weight in bfloat16, where somebody has it; ``pieces``: where its gradient is noted, if it is not to be made.
    """

    weight: Tensor  # (latents, width)
    bias: Tensor  # (latents,)
    precision: str = "float32"
    known: Rounded | None = None
    pieces: Pieces | None = None

    @cached_property
    def _rounded(self) -> Rounded:
        return self.known or Rounded.of(self.weight.detach())

    @cached_property
    def _factor(self) -> Tensor:
        """The weight as the products take it."""
        if self.precision == "float32":
            return self.weight.detach()
        rounded = (
            self.weight.detach().bfloat16() if is_synchronous(self.weight.device) else self._rounded.copy
        )
        return (
            rounded if multiplies_bfloat16(rounded.device) else rounded.float()
        )  # the same numbers, at the speed of float32

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """<x_r, weight_j> of ``x`` (batch, width), a block of rows at a time: (rows, latents)."""
        rows = x.bfloat16() if self.precision == "bfloat16" else x
        at_once = BLOCK_ROWS if is_synchronous(x.device) else max(1, BLOCK_ENTRIES // len(self.weight))
        for block in rows.to(self._factor.dtype).split(at_once):
            with _full_sums():
                product = block @ self._factor.T
            yield product

    def errors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(2, latents) and (2, rows): a product of row r is off by at most errors_0j lost_r + errors_1j norm_r, before it is stored; the
        second are ``lost`` and ``norm``. By Cauchy and Schwarz, whatever the terms: <x, w> - <x', w'> = <x - x', w> + <x', w - w'>."""
        if self.precision == "bfloat16":
            norms, near = self._rounded.norms, x.bfloat16().float()
            accumulated = FLOAT32_ERROR * near.norm(dim=1)
            return norms, torch.stack([(x - near).norm(dim=1) + accumulated, near.norm(dim=1)])
        norm = self.weight.detach().norm(dim=1)
        return torch.stack([norm, torch.zeros_like(norm)]), torch.stack(
            [FLOAT32_ERROR * x.norm(dim=1), x.norm(dim=1)]
        )

    def values(self, x: Tensor, places: Places) -> Tensor:
        """(entries,): relu(<x_r, weight_j> + bias_j) at ``places``, in full precision."""
        return (dot_products(self.weight, places, x) + self.bias[places.latents]).relu_()


@contextmanager
def _full_sums() -> Iterator[None]:
    """Products on a GPU sum in float32, and round float32 factors to nothing less: ``Encoder.errors`` counts on it."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction, settings.allow_tf32
    settings.allow_bf16_reduced_precision_reduction = settings.allow_tf32 = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction, settings.allow_tf32 = before


def above(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None = None) -> Active:
    """Entries of relu(encoder x), from ``x`` (batch, width), whose value is positive and exceeds ``bounds`` (latents,).

    ``first`` is the first block of ``encoder.products(x)``, if it is known already; on a CPU it is overwritten.
    """
    active = _candidates(encoder, x, bounds, first)
    return active.keep(active.values > bounds.clamp_min(0)[active.latents])


def _candidates(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None) -> Active:
    """All entries that ``above`` gives, and some others that are near."""
    known, rest = ([], x) if first is None else ([first], x[len(first) :])
    find = _found_on_cpu if is_synchronous(x.device) and kernels.of(x) is None else _found_by_norms
    found, done, latents = [], 0, len(encoder.weight)
    for block in itertools.chain(known, encoder.products(rest)):
        found.append(find(encoder, x[done : done + len(block)], block, bounds.clamp_min(0)) + done * latents)
        done += len(block)
    places = Places.of(torch.cat(found), (len(x), latents))
    return Active(places, encoder.values(x, places))


def _found_on_cpu(encoder: Encoder, _x: Tensor, block: Tensor, bounds: Tensor) -> Tensor:
    slack = SLACK[encoder.precision]
    least = (1 - slack) * bounds - encoder.bias - slack * encoder.bias.abs()
    return _positive(block.sub_(least.to(block.dtype)).relu_())


def _found_by_norms(encoder: Encoder, x: Tensor, block: Tensor, bounds: Tensor) -> Tensor:
    w_errors, x_errors = encoder.errors(x)
    least = _least(encoder, bounds)
    if (fast := kernels.of(x)) is not None:
        return fast.places_above(block, least, w_errors, x_errors)
    stored = 2**-8 if block.dtype == torch.bfloat16 else 2**-20
    could_be = block.float() + stored * block.abs() + x_errors.T @ w_errors
    return (could_be > least).flatten().nonzero().squeeze(1)


def _least(encoder: Encoder, bounds: Tensor) -> Tensor:
    """(latents,): what a product must exceed for its value to exceed ``bounds`` (latents,), which are not negative."""
    return bounds - encoder.bias - 2**-20 * (bounds + encoder.bias.abs())


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

    active: Active  # all chosen entries
    chosen: Tensor  # (column, entries) bool: for which column
    smallest: Tensor  # (column,): the smallest chosen scaled value, infinite where there is none


def largest(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> Selection:
    """The positive entries f of relu(encoder x) with the ``count`` largest scaled values f_e w_{j_e}, for each column of ``weights``
    (latents, 1 or model); of equal values as many as are needed. On several ranks, the ``count`` x ranks largest of all of them. Exactly.

    A sample gives a bound that a little more than ``count`` entries exceed, and only these are ranked; where fewer exceed it, it was too
    high: a lower one is tried, and at last none. A GPU is asked how many candidates there are and whether they suffice; with
    kernels, both at once.
    """
    everywhere = count * ranks.size()
    first = next(encoder.products(x))
    keep = not is_synchronous(x.device) or kernels.of(x) is not None  # the first block is not overwritten
    find = _candidates if keep else above  # the same values; a CPU drops the near ones at once
    known: Tensor | None = first
    guesses = _guesses(first, encoder.bias, weights, count / len(x))
    if kernels.of(x) is not None and weights.shape[1] == ranks.size() == 1 and len(first) == len(x) and count:
        if (
            selection := _largest_at_once(encoder, x, weights[:, 0], count, first, next(guesses))
        ) is not None:
            return selection
    for guess in guesses:
        candidates = find(encoder, x, (guess / weights).nan_to_num(nan=torch.inf).amin(dim=1), known)
        scaled, mine = ranks.gathered((candidates.values * weights[candidates.latents].T).T)
        values, numbers = scaled.T.topk(min(everywhere, len(scaled)), dim=1, sorted=False)
        if _suffices(guess, values, everywhere):
            break
        known = first if keep else None
    positive = values > 0
    smallest = (
        values.masked_fill(~positive, torch.inf).amin(dim=1)
        if values.shape[1]
        else values.new_full((len(values),), torch.inf)
    )
    if (
        len(values) == ranks.size() == 1 and guess > 0
    ):  # then all are positive: the device need not be asked which
        used = numbers[0].sort().values
        return Selection(candidates.at(used), positive, smallest)
    chosen = torch.zeros_like(scaled.T, dtype=torch.bool).scatter_(1, numbers, positive)[:, mine]
    used = chosen.any(dim=0).nonzero().squeeze(1)
    return Selection(candidates.at(used), chosen[:, used], smallest)


def _largest_at_once(
    encoder: Encoder, x: Tensor, weights: Tensor, count: int, product: Tensor, guess: Tensor
) -> Selection | None:
    """``largest`` for one column on one rank, by kernels: everything is queued before the device is asked, once, whether the candidates
    sufficed. None if they did not."""
    fast, batch = kernels.of(x), len(x)
    bounds = (guess / weights).nan_to_num_(nan=torch.inf)
    flat, values, scaled, found = fast.codes_above(
        product,
        _least(encoder, bounds),
        *encoder.errors(x),
        encoder.weight.detach(),
        encoder.bias.detach(),
        x,
        weights,
    )
    if len(scaled) < count:
        fast.is_room(product, int(found))
        return None
    best, numbers = scaled.topk(count, sorted=False)
    smallest = best.amin()
    answer = Answer(torch.stack([found, (smallest > guess).all().int()]))
    latents = torch.div(flat[numbers], batch, rounding_mode="floor")
    rows = flat[numbers] - latents * batch
    flat, order = (rows.long() * len(weights) + latents).sort()
    places = Places.of(flat, (batch, len(weights)))
    places.offsets, places.by_latent  # noqa: B018  queued, too
    number, suffices = answer.read()
    if not (fast.is_room(product, number) and suffices):
        return None
    return Selection(
        Active(places, values[numbers][order]), torch.ones_like(flat, dtype=torch.bool)[None], smallest[None]
    )


class Answer:
    """Numbers that are read later than they are asked for: work that is queued between need not be waited for."""

    def __init__(self, numbers: Tensor) -> None:
        self.there = None
        if numbers.device.type == "cuda":
            numbers, self.there = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
            self.there.record()
        self.numbers = numbers

    def read(self) -> list[int]:
        """The numbers, once they are there."""
        if self.there is not None:
            self.there.synchronize()
        return self.numbers.tolist()


def _suffices(guess: Tensor, best: Tensor, count: int) -> bool:
    """Whether no entry but the candidates can be among the ``count`` largest: as many exceed the ``guess`` (column,), or it is 0.
    ``best`` (column, up to count): the largest of them."""
    return bool(((guess == 0) | ((best > guess[:, None]).sum(dim=1) >= count)).all())


def _guesses(first: Tensor, bias: Tensor, weights: Tensor, per_row: float) -> Iterator[Tensor]:
    """(column,): scaled values that probably somewhat more than ``per_row`` entries a row exceed, from a sample of the first products; then
    one that many more do; then 0. The same on all ranks."""
    on_gpu = not is_synchronous(first.device)
    wanted = GUESS_SAMPLE_GPU if on_gpu else GUESS_SAMPLE
    step = max(1, first.numel() // wanted)
    while math.gcd(step, len(weights)) > 1:  # so that all latents are met
        step += 1
    place = torch.arange(0, first.numel(), step, device=first.device)
    latent = place % len(weights)
    scaled = (first.flatten()[place] + bias[latent])[:, None] * weights[latent]
    expected = per_row / len(weights) * len(place)
    # A larger sample needs less to spare. A bfloat16 product may have been rounded up to its neighbour.
    spare, lower = (1.03, 1 - 2**-8 if first.dtype == torch.bfloat16 else 1.0) if on_gpu else (1.05, 1.0)
    several = [min(len(place), int(factor * expected + 3 * expected**0.5) + 4) for factor in (spare, 4)]
    sampled = scaled.topk(several[-1], dim=0).values
    for rank in several:
        yield ranks.least(lower * sampled[rank - 1].clamp_min(0))
    yield ranks.least(torch.zeros_like(sampled[0]))


def is_sparse(encoder: Encoder, first: Tensor) -> bool:
    """Whether few enough entries are positive that sparse operations pay, judged by some rows of the first block of products."""
    return bool(
        (first[:BLOCK_ROWS] > -encoder.bias.to(first.dtype)).float().mean() < DENSE_ABOVE[encoder.precision]
    )


class _Encoded(torch.autograd.Function):
    """Hands on values that are known already, and sends their gradient to the encoder's active entries alone."""

    @staticmethod
    def forward(
        ctx, values: Tensor, weight: Tensor, bias: Tensor, x: Tensor, places: Places, pieces: Pieces | None
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.places, ctx.pieces = places, pieces
        return values.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, values = ctx.saved_tensors
        active = Active(ctx.places, gradient * (values > 0))
        of_bias = active.sum_per_latent(active.values)
        return None, weight_gradient(active, x, ctx.pieces), of_bias, None, None, None


def encoded(active: Active, encoder: Encoder, x: Tensor) -> Active:
    """The same entries, differentiable: f_e = relu(<x_{r_e}, weight_{j_e}> + bias_{j_e}), whose values are given; an entry of value 0
    hands on no gradient, and x gets none."""
    values = _Encoded.apply(active.values, encoder.weight, encoder.bias, x, active.places, encoder.pieces)
    return active._replace(values=values)
