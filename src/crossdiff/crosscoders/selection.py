"""Select the active entries of a code matrix: those above a bound, or the largest of a batch.

The encoder's product only finds candidates, in blocks of rows, and in bfloat16 if the settings say so. The
candidates' values are then computed again in full precision. So the product's precision can only affect the
choice among values that are equal in float32.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from crossdiff.crosscoders import kernels, ranks
from crossdiff.crosscoders.gradients import Pieces
from crossdiff.crosscoders.sparse import Active, Places, PlacesContext, dot_products, weight_gradient
from crossdiff.device import is_synchronous, multiplies_bfloat16

BLOCK_ROWS = 512  # of a block on a CPU, which fits its cache
BLOCK_ENTRIES = 2**28  # of a block on a GPU
# Entries of the first block that are sampled to guess the bound of a selection, on a CPU and on a GPU.
GUESS_SAMPLE, GUESS_SAMPLE_GPU = 262_144, 2**20
# A generous error of a product on a CPU, relative to its bound and the bias. Entries this close below a bound
# are candidates, too. The true error is larger if a product's terms are much larger than their sum. A GPU
# uses bounds from norms instead (``Encoder.errors``), which always hold. If bound and bias are 0 (L1), the
# product alone decides on a CPU which entries near 0 are positive. In bfloat16 about 0.2 % of the active
# entries differ, and they are the weakest.
SLACK = {"float32": 1e-4, "bfloat16": 2**-5}
# Error of a float32 product over the product of the norms, for sums of up to 100,000 terms in any order.
FLOAT32_ERROR = 2**-16
# Share of active entries above which dense products are faster, measured on 2 CPU cores.
DENSE_ABOVE = {"float32": 0.12, "bfloat16": 0.05}


class Rounded(NamedTuple):
    """A matrix in bfloat16, and its distance from the matrix in float32."""

    copy: Tensor  # (latents, width) bfloat16
    norms: Tensor  # (2, latents): the norm of each row, and of what rounding took from the row

    @classmethod
    def of(cls, weight: Tensor) -> "Rounded":
        """Round ``weight`` (latents, width)."""
        copy = weight.bfloat16()
        return cls(copy, torch.stack([weight.norm(dim=1), (weight - copy).norm(dim=1)]))


@dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder of a crosscoder during one step.

    Its products use ``precision``, "float32" or "bfloat16". ``known`` is the weight in bfloat16, if it was
    computed before. If ``pieces`` are given, the weight's gradient is noted there instead of computed.
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
        weight = self.weight.detach()
        if self.precision == "float32":
            return weight
        rounded = weight.bfloat16() if is_synchronous(weight.device) else self._rounded.copy
        # Without bfloat16 units, the same numbers in float32 are faster.
        return rounded if multiplies_bfloat16(rounded.device) else rounded.float()

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """Yield <x_r, weight_j> for ``x`` (batch, width), a block of rows at a time: (rows, latents)."""
        rows = x.bfloat16() if self.precision == "bfloat16" else x
        at_once = BLOCK_ROWS if is_synchronous(x.device) else max(1, BLOCK_ENTRIES // len(self.weight))
        for block in rows.to(self._factor.dtype).split(at_once):
            with _full_sums():
                product = block @ self._factor.T
            yield product

    def errors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds for the error of products, ``w_errors`` (2, latents) and ``x_errors`` (2, rows).

        Before it is stored, the product of row r and latent j is off by at most
        w_errors_0j x_errors_0r + w_errors_1j x_errors_1r. With x' and w' as rounded, <x, w> - <x', w'> =
        <x - x', w> + <x', w - w'>, and the Cauchy-Schwarz inequality bounds both terms.
        """
        if self.precision == "bfloat16":
            norms, near = self._rounded.norms, x.bfloat16().float()
            accumulated = FLOAT32_ERROR * near.norm(dim=1)
            return norms, torch.stack([(x - near).norm(dim=1) + accumulated, near.norm(dim=1)])
        of_w, of_x = self.weight.detach().norm(dim=1), x.norm(dim=1)
        return torch.stack([of_w, torch.zeros_like(of_w)]), torch.stack([FLOAT32_ERROR * of_x, of_x])

    def values(self, x: Tensor, places: Places) -> Tensor:
        """Return relu(<x_r, weight_j> + bias_j) at ``places`` in full precision, (entries,)."""
        return (dot_products(self.weight, places, x) + self.bias[places.latents]).relu_()


@contextmanager
def _full_sums() -> Iterator[None]:
    """Make a GPU sum in float32 and not round float32 factors. ``Encoder.errors`` relies on it."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction, settings.allow_tf32
    settings.allow_bf16_reduced_precision_reduction = settings.allow_tf32 = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction, settings.allow_tf32 = before


def above(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None = None) -> Active:
    """Return the entries of relu(encoder x) that are positive and exceed ``bounds`` (latents,).

    ``x`` is (batch, width). ``first`` is the first block of ``encoder.products(x)``, if it is known already.
    A CPU overwrites it.
    """
    active = _candidates(encoder, x, bounds, first)
    return active.keep(active.values > bounds.clamp_min(0)[active.latents])


def _candidates(encoder: Encoder, x: Tensor, bounds: Tensor, first: Tensor | None) -> Active:
    """Return all entries that ``above`` gives, and some others that are close to their bound."""
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
    """Return what products must exceed so that values exceed ``bounds`` >= 0, both (latents,)."""
    return bounds - encoder.bias - 2**-20 * (bounds + encoder.bias.abs())


def _positive(block: Tensor) -> Tensor:
    """Return the places (n,) in the flattened ``block`` that are not zero."""
    flat = block.flatten()
    # They are few. So words of eight bytes are searched first.
    size = 8 // flat.element_size()
    whole = len(flat) // size * size
    words = flat[:whole].view(torch.int64).nonzero().squeeze(1)
    word, place = flat[:whole].view(-1, size)[words].nonzero().unbind(1)
    return torch.cat([words[word] * size + place, flat[whole:].nonzero().squeeze(1) + whole])


class Selection(NamedTuple):
    """What ``largest`` chose."""

    active: Active  # all chosen entries
    chosen: Tensor  # (column, entries) bool: the columns that chose each entry
    smallest: Tensor  # (column,): the smallest chosen scaled value, infinite if there is none


def largest(encoder: Encoder, x: Tensor, weights: Tensor, count: int) -> Selection:
    """Select the positive entries f of relu(encoder x) with the ``count`` largest scaled values f_e w_{j_e}.

    ``x`` is (batch, width). Each column w of ``weights`` (latents, 1 or model) selects its own entries.
    Several ranks together select the ``count`` x ranks largest. The selection is exact. Of equal values as
    many are taken as are needed.

    A sample gives a bound that slightly more than ``count`` entries exceed, and only these are ranked. If
    fewer exceed it, a lower bound is tried, and then none. A GPU must be asked how many candidates there are
    and whether they suffice. With kernels both questions are asked at once.
    """
    everywhere = count * ranks.size()
    first = next(encoder.products(x))
    fast = kernels.of(x)
    keep = not is_synchronous(x.device) or fast is not None  # whether the first block is not overwritten
    find = _candidates if keep else above  # the values are the same, and a CPU drops close ones at once
    known: Tensor | None = first
    guesses = _guesses(first, encoder.bias, weights, count / len(x))
    if fast is not None and weights.shape[1] == ranks.size() == 1 and len(first) == len(x) and count:
        at_once = _largest_at_once(fast, encoder, x, weights[:, 0], count, first, next(guesses))
        if at_once is not None:
            return at_once
    for guess in guesses:
        candidates = find(encoder, x, (guess / weights).nan_to_num(nan=torch.inf).amin(dim=1), known)
        scaled, mine = ranks.gathered((candidates.values * weights[candidates.latents].T).T)
        values, numbers = scaled.T.topk(min(everywhere, len(scaled)), dim=1, sorted=False)
        if _suffices(guess, values, everywhere):
            break
        known = first if keep else None
    positive = values > 0
    if values.shape[1]:
        smallest = values.masked_fill(~positive, torch.inf).amin(dim=1)
    else:
        smallest = values.new_full((len(values),), torch.inf)
    # If the guess is positive, all values are, and the device need not be asked which.
    if len(values) == ranks.size() == 1 and guess > 0:
        used = numbers[0].sort().values
        return Selection(candidates.at(used), positive, smallest)
    chosen = torch.zeros_like(scaled.T, dtype=torch.bool).scatter_(1, numbers, positive)[:, mine]
    used = chosen.any(dim=0).nonzero().squeeze(1)
    return Selection(candidates.at(used), chosen[:, used], smallest)


def _largest_at_once(
    fast: ModuleType, encoder: Encoder, x: Tensor, weights: Tensor, count: int, product: Tensor, guess: Tensor
) -> Selection | None:
    """``largest`` with kernels, for one column of weights (latents,) on one rank.

    All work is queued before the device is asked, once, whether the candidates of ``guess`` suffice. Gives
    None if they do not. ``product`` (batch, latents) is the encoder's, and ``fast`` the module with the
    kernels.
    """
    batch, w, bias = len(x), encoder.weight.detach(), encoder.bias.detach()
    least = _least(encoder, (guess / weights).nan_to_num_(nan=torch.inf))
    flat, values, scaled, found = fast.codes_above(product, least, *encoder.errors(x), w, bias, x, weights)
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
    places.offsets, places.by_latent  # noqa: B018  they are queued now, too
    number, suffices = answer.read()
    if not (fast.is_room(product, number) and suffices):
        return None
    chosen = torch.ones_like(flat, dtype=torch.bool)[None]
    return Selection(Active(places, values[numbers][order]), chosen, smallest[None])


class Answer:
    """Numbers that a device is asked for now. Reading them later waits for no work queued in between."""

    def __init__(self, numbers: Tensor) -> None:
        self.there: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            numbers, self.there = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
            self.there.record()
        self.numbers = numbers

    def read(self) -> list[int]:
        """Wait for the numbers, and give them."""
        if self.there is not None:
            self.there.synchronize()
        return self.numbers.tolist()


def _suffices(guess: Tensor, best: Tensor, count: int) -> bool:
    """Return whether the ``count`` largest entries are all among the candidates.

    They are if ``count`` candidates exceed the ``guess`` (column,), or if the guess is 0. ``best`` (column,
    up to count) are the largest scaled values of the candidates.
    """
    return bool(((guess == 0) | ((best > guess[:, None]).sum(dim=1) >= count)).all())


def _guesses(first: Tensor, bias: Tensor, weights: Tensor, per_row: float) -> Iterator[Tensor]:
    """Yield bounds for scaled values, (column,), that are the same on all ranks.

    Probably slightly more than ``per_row`` entries per row exceed the first bound, and many more exceed the
    second. The third is 0. The first two come from a sample of ``first`` (rows, latents), the first products.
    """
    on_gpu = not is_synchronous(first.device)
    wanted = GUESS_SAMPLE_GPU if on_gpu else GUESS_SAMPLE
    step = max(1, first.numel() // wanted)
    while math.gcd(step, len(weights)) > 1:  # otherwise the sample would miss latents
        step += 1
    place = torch.arange(0, first.numel(), step, device=first.device)
    latent = place % len(weights)
    scaled = (first.flatten()[place] + bias[latent])[:, None] * weights[latent]
    expected = per_row / len(weights) * len(place)
    # A larger sample needs a smaller margin. A bfloat16 product may have been rounded up to its neighbour.
    spare, lower = (1.03, 1 - 2**-8 if first.dtype == torch.bfloat16 else 1.0) if on_gpu else (1.05, 1.0)
    several = [min(len(place), int(factor * expected + 3 * expected**0.5) + 4) for factor in (spare, 4)]
    sampled = scaled.topk(several[-1], dim=0).values
    for rank in several:
        yield ranks.least(lower * sampled[rank - 1].clamp_min(0))
    yield ranks.least(torch.zeros_like(sampled[0]))


def is_sparse(encoder: Encoder, first: Tensor) -> bool:
    """Return whether sparse operations are faster, judged by positive entries in rows of ``first``."""
    positive = first[:BLOCK_ROWS] > -encoder.bias.to(first.dtype)
    return bool(positive.float().mean() < DENSE_ABOVE[encoder.precision])


class _Encoded(torch.autograd.Function):
    """Passes on values that are known already. Their gradient goes to the encoder's active entries only."""

    @staticmethod
    def forward(
        ctx: PlacesContext,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        x: Tensor,
        places: Places,
        pieces: Pieces | None,
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.places, ctx.pieces = places, pieces
        return values.clone()

    @staticmethod
    def backward(
        ctx: PlacesContext, *gradients: Tensor
    ) -> tuple[None, Tensor | None, Tensor, None, None, None]:
        (x, values), (gradient,) = ctx.saved_tensors, gradients
        active = Active(ctx.places, gradient * (values > 0))
        of_bias = active.sum_per_latent(active.values)
        return None, weight_gradient(active, x, ctx.pieces), of_bias, None, None, None


def encoded(active: Active, encoder: Encoder, x: Tensor) -> Active:
    """Make ``active`` entries differentiable: f_e = relu(<x_{r_e}, weight_{j_e}> + bias_{j_e}).

    Their values are given. An entry of value 0 passes on no gradient, and ``x`` (batch, width) gets none.
    """
    values = _Encoded.apply(active.values, encoder.weight, encoder.bias, x, active.places, encoder.pieces)
    return active._replace(values=values)
