"""The kernels, and what calls them. Imported only where Triton runs (``kernels.of``).

Shapes: w (latents, width), x (batch, width), both with rows of consecutive numbers; entries (row, latent, value) as in ``sparse``.
Block sizes were chosen on an H200 at width 4,608.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from crossdiff.crosscoders.gradients import Pieces

COLUMNS = 512  # of a row that a program holds
ROOM = 4096
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults


@triton.jit
def _rows_sum(rows, coefficients, x, stride, first, last, columns, inside, E: tl.constexpr, C: tl.constexpr):
    """sum over entries first to last of coefficient_e x[row_e, columns]: (C,). E entries are in flight."""
    total = tl.zeros((E, C), tl.float32)
    for start in range(first, last, E):
        e = start + tl.arange(0, E)
        there = e < last
        row = tl.load(rows + e, mask=there, other=0)
        coefficient = tl.load(coefficients + e, mask=there, other=0.0)
        part = tl.load(
            x + row[:, None] * stride + columns[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        total += coefficient[:, None] * part
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["number"])
def _weighted_rows_kernel(
    latents, values, offsets, number, w, out, batch, width, stride, E: tl.constexpr, C: tl.constexpr
):
    """Program (row, block of columns), rows fastest: out_r = sum_e [r_e = r] f_e w_{j_e}."""
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    first = tl.load(offsets + row)
    last = tl.load(offsets + row + 1, mask=row + 1 < batch, other=number)
    total = _rows_sum(latents, values, w, stride, first, last, columns, inside, E, C)
    tl.store(out + row.to(tl.int64) * width + columns, total, mask=inside)


@triton.jit(do_not_specialize=["number"])  # it changes from step to step
def _dot_products_kernel(
    entries, latents, rows, number, w, x, out, width, stride_w, stride_x, E: tl.constexpr, C: tl.constexpr
):
    """Program = E entries next to each other in the order of latents, balanced whatever their skew: out_e = <w_{j_e}, x_{r_e}>. A
    latent's row of w is read from memory once, the rows of x come from the cache."""
    e = tl.program_id(0) * E + tl.arange(0, E)
    there = e < number
    latent = tl.load(latents + e, mask=there, other=0)
    row = tl.load(rows + e, mask=there, other=0)
    total = tl.zeros((E, C), tl.float32)
    for start in range(0, width, C):
        columns = start + tl.arange(0, C)
        inside = there[:, None] & (columns < width)[None, :]
        part = tl.load(w + latent[:, None] * stride_w + columns[None, :], mask=inside, other=0.0)
        total += part * tl.load(x + row[:, None] * stride_x + columns[None, :], mask=inside, other=0.0)
    tl.store(out + tl.load(entries + e, mask=there, other=0), tl.sum(total, 1), mask=there)


@triton.jit
def _codes_kernel(
    flat, number, batch, w, x, bias, weight, values, scaled, width, stride_w, stride_x, E: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """The same for entries at ``flat`` = j batch + r, those beyond *number left out: f_e = relu(<w_{j_e}, x_{r_e}> + bias_{j_e}), and
    f_e weight_{j_e}; both -1 where they were left out."""
    e = tl.program_id(0) * E + tl.arange(0, E)
    there = e < tl.load(number)
    place = tl.load(flat + e, mask=there, other=0).to(tl.int64)
    latent = place // batch
    row = place - latent * batch
    total = tl.zeros((E, C), tl.float32)
    for start in range(0, width, C):
        columns = start + tl.arange(0, C)
        inside = there[:, None] & (columns < width)[None, :]
        part = tl.load(w + latent[:, None] * stride_w + columns[None, :], mask=inside, other=0.0)
        total += part * tl.load(x + row[:, None] * stride_x + columns[None, :], mask=inside, other=0.0)
    value = tl.maximum(tl.sum(total, 1) + tl.load(bias + latent, mask=there, other=0.0), 0.0)
    tl.store(values + e, tl.where(there, value, -1.0))
    tl.store(scaled + e, tl.where(there, value * tl.load(weight + latent, mask=there, other=0.0), -1.0))


@triton.jit
def _gradient(
    j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra, dense, GATHERED: tl.constexpr,
    SCALED: tl.constexpr, EXTRA: tl.constexpr, DENSE: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """A block of latent j's gradient, from the pieces that ``gradients.Pieces`` names."""
    gradient = tl.zeros((C,), tl.float32)
    if GATHERED:
        gradient += _rows_sum(
            rows,
            coefficients,
            x,
            stride_x,
            tl.load(bounds + j),
            tl.load(bounds + j + 1),
            columns,
            inside,
            E,
            C,
        )
    if SCALED:
        base, chat = tl.load(scale + 2 * j), tl.load(scale + 2 * j + 1)
        gradient += weight * tl.where(columns < width // 2, base, chat)
    if EXTRA:
        number = tl.load(place + j)
        gradient += tl.load(extra + number * width + columns, mask=inside & (number >= 0), other=0.0)
    if DENSE:
        gradient += tl.load(dense + at, mask=inside, other=0.0, eviction_policy="evict_first")
    return gradient


@triton.jit
def _squares_kernel(
    w, out, latents, width, rows, coefficients, bounds, x, stride_x, scale, place, extra, dense, GATHERED: tl.constexpr,
    SCALED: tl.constexpr, EXTRA: tl.constexpr, DENSE: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Program (latent, block of columns), latents fastest: the sum of squares of that block of the gradient, which is not kept."""
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    at = j * width + columns
    weight = tl.zeros((C,), tl.float32)
    if SCALED:
        weight = tl.load(w + at, mask=inside, other=0.0)
    gradient = _gradient(
        j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra, dense, GATHERED, SCALED, EXTRA,
        DENSE, E, C,
    )  # fmt: skip
    tl.store(out + block * latents + j, tl.sum(gradient * gradient, 0))


@triton.jit
def _adam_kernel(
    w, mean, square, factor, step_size, root, rounded, norms, latents, width, rows, coefficients, bounds, x, stride_x, scale, place, extra,
    dense, b1, b2, epsilon, ROUNDED: tl.constexpr, PER_MODEL: tl.constexpr, GATHERED: tl.constexpr, SCALED: tl.constexpr,
    EXTRA: tl.constexpr, DENSE: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Adam in place on a block (latent, columns); gradients times *factor. In the same pass, from the new weights, squared norms
    (block, 2, latents): of the row and of what rounding to bfloat16 takes from it (ROUNDED, with the rounded copy), or of each model's half
    (PER_MODEL). Latents are fastest: the block of columns of x that is gathered stays in the cache, where w and its moments stream through.
    """
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    at = j * width + columns
    weight = tl.load(w + at, mask=inside, other=0.0, eviction_policy="evict_first")
    m = tl.load(mean + at, mask=inside, other=0.0, eviction_policy="evict_first")
    v = tl.load(square + at, mask=inside, other=0.0, eviction_policy="evict_first")
    gradient = tl.load(factor) * _gradient(
        j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra, dense, GATHERED, SCALED, EXTRA,
        DENSE, E, C,
    )  # fmt: skip
    m += b1 * (gradient - m)
    v += b2 * (gradient * gradient - v)
    weight -= step_size * m / (tl.sqrt(v) * root + epsilon)
    tl.store(mean + at, m, mask=inside, eviction_policy="evict_first")
    tl.store(square + at, v, mask=inside, eviction_policy="evict_first")
    tl.store(w + at, weight, mask=inside, eviction_policy="evict_first")
    squared = tl.where(inside, weight * weight, 0.0)
    if ROUNDED:
        near = weight.to(tl.bfloat16)
        tl.store(rounded + at, near, mask=inside, eviction_policy="evict_first")
        lost = tl.where(inside, weight - near.to(tl.float32), 0.0)
        tl.store(norms + 2 * block * latents + j, tl.sum(squared, 0))
        tl.store(norms + (2 * block + 1) * latents + j, tl.sum(lost * lost, 0))
    if PER_MODEL:
        is_base = columns < width // 2
        tl.store(norms + 2 * block * latents + j, tl.sum(tl.where(is_base, squared, 0.0), 0))
        tl.store(norms + (2 * block + 1) * latents + j, tl.sum(tl.where(is_base, 0.0, squared), 0))


@triton.jit(do_not_specialize=["room"])
def _above_kernel(
    product, bounds, norm, lost, lost_x, norm_x, flat, number, batch, latents, room, relative, BY_LATENT: tl.constexpr,
    ROWS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Program (block of latents, ROWS rows): flat places r latents + j, or j batch + r (BY_LATENT), where product_rj could exceed
    bound_j, its error considered, in no
    order; ``number`` counts them all, those past ``room``, too."""
    columns = tl.program_id(0) * C + tl.arange(0, C)
    inside = columns < latents
    bound = tl.load(bounds + columns, mask=inside, other=float("inf"))
    norm_j, lost_j = (
        tl.load(norm + columns, mask=inside, other=0.0),
        tl.load(lost + columns, mask=inside, other=0.0),
    )
    for i in range(ROWS):
        row = tl.program_id(1) * ROWS + i
        there = row < batch
        at = row.to(tl.int64) * latents + columns
        value = tl.load(
            product + at, mask=inside & there, other=float("-inf"), eviction_policy="evict_first"
        ).to(tl.float32)
        slack = (
            tl.load(lost_x + row, mask=there, other=0.0) * norm_j
            + tl.load(norm_x + row, mask=there, other=0.0) * lost_j
        )
        hit = (value + relative * tl.abs(value) + slack > bound).to(tl.int32)
        found = tl.sum(hit, 0)
        if found > 0:
            place = tl.atomic_add(number, found) + tl.cumsum(hit, 0) - 1
            if BY_LATENT:
                at = columns.to(tl.int64) * batch + row
            tl.store(flat + place, at, mask=(hit > 0) & (place < room))


def weighted_rows(w: Tensor, latents: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """out_r = sum_e [r_e = r] f_e w_{j_e}: (batch, width). Entries in the order of rows; ``offsets`` (batch,): each row's first."""
    out = torch.empty(len(offsets), w.shape[1], device=w.device)
    grid = (len(offsets), triton.cdiv(w.shape[1], 256))
    if len(offsets):
        _weighted_rows_kernel[grid](
            latents, values, offsets, len(latents), w, out, *out.shape, w.stride(0), 8, 256, num_warps=2
        )
    return out


def dot_products(w: Tensor, x: Tensor, entries: Tensor, latents: Tensor, rows: Tensor) -> Tensor:
    """out_e = <w_{j_e}, x_{r_e}>: (entries,). ``latents`` and ``rows`` in the order of latents, ``entries``: their numbers."""
    out = torch.empty(len(entries), device=w.device)
    if len(entries):
        grid = (triton.cdiv(len(entries), 4),)
        strides = w.stride(0), x.stride(0)
        _dot_products_kernel[grid](
            entries, latents, rows, len(entries), w, x, out, w.shape[1], *strides, 4, COLUMNS, num_warps=4
        )
    return out


@triton.jit
def _rows_per_latent_kernel(
    rows, coefficients, bounds, x, out, width, stride_x, E: tl.constexpr, C: tl.constexpr
):
    """Program (latent, block of columns), latents fastest: out_j = sum_e [j_e = j] f_e x_{r_e}."""
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    total = _rows_sum(
        rows, coefficients, x, stride_x, tl.load(bounds + j), tl.load(bounds + j + 1), columns, inside, E, C
    )
    tl.store(out + j * width + columns, total, mask=inside)


def rows_per_latent(rows: Tensor, coefficients: Tensor, bounds: Tensor, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] f_e x_{r_e}: (latents, width). Entries in the order of latents; ``bounds`` (latents + 1,): each latent's."""
    out = torch.empty(len(bounds) - 1, x.shape[1], device=x.device)
    grid = (len(out), triton.cdiv(x.shape[1], COLUMNS))
    _rows_per_latent_kernel[grid](
        rows, coefficients, bounds, x, out, x.shape[1], x.stride(0), 4, COLUMNS, num_warps=4
    )
    return out


_room: dict[
    tuple[int, int], int
] = {}  # (batch, latents) -> how many places to make room for: some more than were found last


def places_above(product: Tensor, bounds: Tensor, w_errors: Tensor, x_errors: Tensor) -> Tensor:
    """Flat places (places,), ascending, of entries of ``product`` (batch, latents) whose exact value could exceed ``bounds`` (latents,).

    ``w_errors`` (2, latents) and ``x_errors`` (2, batch): their products' sum bounds the error (``selection.Encoder.errors``).
    """
    number = torch.zeros((), dtype=torch.int32, device=product.device)
    while True:
        room = _room_for(product)
        flat = _above(product, bounds, w_errors, x_errors, room, number, False)
        if _is_room(product, room, found := int(number)):
            return flat[:found].sort().values.long()


def codes_above(
    product: Tensor,
    bounds: Tensor,
    w_errors: Tensor,
    x_errors: Tensor,
    w: Tensor,
    bias: Tensor,
    x: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same places, of all rows, latent by latent, without a word of how many they are: places j batch + r, values relu(<w_j, x_r> +
    bias_j) and these times ``weights`` (latents,), each (room,) and -1 (the values) beyond those found; and how many were found, (), which
    ``is_room`` takes."""
    number, room = torch.zeros((), dtype=torch.int32, device=product.device), _room_for(product)
    flat = _above(product, bounds, w_errors, x_errors, room, number, True).sort().values
    values, scaled = torch.empty(room, device=w.device), torch.empty(room, device=w.device)
    strides = w.stride(0), x.stride(0)
    _codes_kernel[(triton.cdiv(room, 4),)](
        flat, number, len(product), w, x, bias, weights, values, scaled, w.shape[1], *strides, 4, COLUMNS, num_warps=4
    )  # fmt: skip
    return flat, values, scaled, number


def _above(
    product: Tensor, bounds: Tensor, w_errors: Tensor, x_errors: Tensor, room: int, number: Tensor, by_latent: bool
) -> Tensor:  # fmt: skip
    batch, latents = product.shape
    # A bfloat16 product is rounded once more, when it is stored.
    relative = 2**-8 if product.dtype == torch.bfloat16 else 2**-20
    dtype = torch.int32 if product.numel() < 2**31 else torch.int64
    flat = torch.full((room,), torch.iinfo(dtype).max, dtype=dtype, device=product.device)
    grid = (triton.cdiv(latents, 512), triton.cdiv(batch, 16))
    number.zero_()
    _above_kernel[grid](
        product, bounds, *w_errors, *x_errors, flat, number, batch, latents, room, relative, by_latent, 16, 512, num_warps=2
    )  # fmt: skip
    return flat


def _room_for(product: Tensor) -> int:
    """In large steps, so that memory of the same size is asked for again and again; programs of ``codes_above`` take 4 entries each."""
    return -(-_room.get(tuple(product.shape), product.numel() // 256) // ROOM) * ROOM + ROOM


def is_room(product: Tensor, found: int) -> bool:
    """Whether ``codes_above`` had room for all that it ``found``; the next time it has."""
    return _is_room(product, _room_for(product), found)


def _is_room(product: Tensor, room: int, found: int) -> bool:
    _room[tuple(product.shape)] = found + found // 8
    return found <= room


class Gradient:
    """The gradient of a matrix ``w`` (latents, width) as the kernels take it: ``dense``, if there is one, and ``pieces``.

    ``w`` itself stands where a kernel gets no tensor.
    """

    def __init__(self, w: Tensor, dense: Tensor | None, pieces: Pieces) -> None:
        gathered = pieces.gathered
        if len(gathered) > 1:
            parts = [rows_per_latent(order.rows, values, order.bounds, x) for order, values, x in gathered]
            dense, gathered = sum(parts, start=0 if dense is None else dense.view_as(w)), []
        nowhere = torch.zeros(0, dtype=torch.long, device=w.device)
        rows, values, bounds, x = nowhere, w, nowhere, w
        if gathered:
            (order, values, x), *_ = gathered
            rows, bounds = order.rows, order.bounds
        scale = sum(pieces.scales[1:], start=pieces.scales[0]).contiguous() if pieces.scales else w
        place, extra = _extra_rows(len(w), pieces.rows) if pieces.rows else (nowhere, w)
        self.arguments = (
            rows,
            values,
            bounds,
            x,
            x.stride(0),
            scale,
            place,
            extra,
            w if dense is None else dense,
        )
        self.flags = {
            "GATHERED": bool(gathered),
            "SCALED": bool(pieces.scales),
            "EXTRA": bool(pieces.rows),
            "DENSE": dense is not None,
        }


def _extra_rows(latents: int, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Where each latent's row stands, -1 for none (latents,), and the rows (n, width)."""
    numbers, rows = parts[0]
    if len(parts) > 1:
        numbers, inverse = torch.cat([part[0] for part in parts]).unique(return_inverse=True)
        together = torch.cat([part[1] for part in parts])
        rows = together.new_zeros(len(numbers), together.shape[1]).index_add_(0, inverse, together)
    place = numbers.new_full((latents,), -1)
    place[numbers] = torch.arange(len(numbers), device=numbers.device)
    return place, rows.contiguous()


def squared_norm(w: Tensor, gradient: Gradient) -> Tensor:
    """(): of the gradient of ``w`` (latents, width), which is not made."""
    latents, width = w.shape
    blocks = triton.cdiv(width, 1024)
    out = torch.empty(blocks, latents, device=w.device)
    _squares_kernel[(latents, blocks)](
        w, out, latents, width, *gradient.arguments, **gradient.flags, E=2, C=1024, num_warps=4
    )
    return out.sum()


def adam(
    w: Tensor, mean: Tensor, square: Tensor, gradient: Gradient, factor: Tensor, learning_rate: float, step: int,
    rounded: Tensor | None = None, per_model: bool = False,
) -> Tensor | None:  # fmt: skip
    """A step of Adam on ``w`` (latents, width) and its moments, in place, with the gradient times ``factor`` ().

    Gives (2, latents): with ``rounded``, a bfloat16 copy that is written anew, the norms of each row and of what rounding took from it;
    ``per_model`` the norms of each row's halves.
    """
    latents, width = w.shape
    blocks = triton.cdiv(width, COLUMNS)
    norms = torch.empty(blocks, 2, latents, device=w.device) if per_model or rounded is not None else None
    _adam_kernel[(latents, blocks)](
        w, mean, square, factor, learning_rate / (1 - BETA1**step), (1 - BETA2**step) ** -0.5, w if rounded is None else rounded,
        w if norms is None else norms, latents, width, *gradient.arguments, 1 - BETA1, 1 - BETA2, EPSILON, ROUNDED=rounded is not None,
        PER_MODEL=per_model, **gradient.flags, E=4, C=COLUMNS, num_warps=4,
    )  # fmt: skip
    return None if norms is None else norms.sum(dim=0).sqrt_()


def probe(device: torch.device) -> None:
    """Compile and run a kernel. Raises whatever Triton raises where it can't."""
    one = torch.ones(1, 1, device=device)
    zero = torch.zeros(1, dtype=torch.long, device=device)
    weighted_rows(one, zero, one[0], zero)
