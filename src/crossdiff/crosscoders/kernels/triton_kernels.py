# Triton types a kernel's arguments when it compiles the kernel. Annotations can't express these types.
# mypy: allow-untyped-defs, allow-incomplete-defs
"""The Triton kernels that ``operations`` calls.

Arguments: w (latents, width) and x (batch, width) have rows of consecutive numbers. An entry has a row r, a
latent j and a value f, as in ``crosscoders.sparse``. C is the number of columns that a program holds, and E
the number of entries that it takes at once.
"""

import triton
import triton.language as tl


@triton.jit
def _rows_sum(rows, coefficients, x, stride, first, last, columns, inside, E: tl.constexpr, C: tl.constexpr):
    """Sum over entries first to last of coefficient_e x[row_e, columns]: (C,). E entries are in flight."""
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


@triton.jit
def _products(w, x, latent, row, there, width, stride_w, stride_x, E: tl.constexpr, C: tl.constexpr):
    """Sum products of w_latent and x_row over blocks of columns, for E entries: (E, C).

    Their sum over C is <w_latent, x_row>. It is 0 where an entry is not ``there``.
    """
    total = tl.zeros((E, C), tl.float32)
    for start in range(0, width, C):
        columns = start + tl.arange(0, C)
        inside = there[:, None] & (columns < width)[None, :]
        part = tl.load(w + latent[:, None] * stride_w + columns[None, :], mask=inside, other=0.0)
        total += part * tl.load(x + row[:, None] * stride_x + columns[None, :], mask=inside, other=0.0)
    return total


@triton.jit(do_not_specialize=["number"])
def weighted_rows_kernel(
    latents, values, offsets, number, w, out, batch, width, stride, E: tl.constexpr, C: tl.constexpr
):
    """out_r = sum_e [r_e = r] f_e w_{j_e}. A program takes (row, block of columns), rows fastest."""
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    first = tl.load(offsets + row)
    last = tl.load(offsets + row + 1, mask=row + 1 < batch, other=number)
    total = _rows_sum(latents, values, w, stride, first, last, columns, inside, E, C)
    tl.store(out + row.to(tl.int64) * width + columns, total, mask=inside)


@triton.jit(do_not_specialize=["number"])  # it changes from step to step
def dot_products_kernel(
    entries, latents, rows, number, w, x, out, width, stride_w, stride_x, E: tl.constexpr, C: tl.constexpr
):
    """out_e = <w_{j_e}, x_{r_e}>. A program takes E entries next to each other in the order of latents.

    So programs have equal work however unequal the latents are. A latent's row of w is read from memory once,
    and the rows of x come from the cache.
    """
    e = tl.program_id(0) * E + tl.arange(0, E)
    there = e < number
    latent = tl.load(latents + e, mask=there, other=0)
    row = tl.load(rows + e, mask=there, other=0)
    total = _products(w, x, latent, row, there, width, stride_w, stride_x, E, C)
    tl.store(out + tl.load(entries + e, mask=there, other=0), tl.sum(total, 1), mask=there)


@triton.jit
def codes_kernel(
    flat, number, batch, w, x, bias, weight, values, scaled, width, stride_w, stride_x,
    E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """f_e = relu(<w_{j_e}, x_{r_e}> + bias_{j_e}) and f_e weight_{j_e} for entries at ``flat`` = j batch + r.

    Programs take entries as in ``dot_products_kernel``. Entries from *number on get -1 twice.
    """
    e = tl.program_id(0) * E + tl.arange(0, E)
    there = e < tl.load(number)
    place = tl.load(flat + e, mask=there, other=0).to(tl.int64)
    latent = place // batch
    row = place - latent * batch
    total = _products(w, x, latent, row, there, width, stride_w, stride_x, E, C)
    value = tl.maximum(tl.sum(total, 1) + tl.load(bias + latent, mask=there, other=0.0), 0.0)
    tl.store(values + e, tl.where(there, value, -1.0))
    tl.store(scaled + e, tl.where(there, value * tl.load(weight + latent, mask=there, other=0.0), -1.0))


@triton.jit
def rows_per_latent_kernel(
    rows, coefficients, bounds, x, out, width, stride_x, E: tl.constexpr, C: tl.constexpr
):
    """out_j = sum_e [j_e = j] f_e x_{r_e}. A program takes (latent, block of columns), latents fastest."""
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    first, last = tl.load(bounds + j), tl.load(bounds + j + 1)
    total = _rows_sum(rows, coefficients, x, stride_x, first, last, columns, inside, E, C)
    tl.store(out + j * width + columns, total, mask=inside)


@triton.jit
def _gradient(
    j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra,
    dense, GATHERED: tl.constexpr, SCALED: tl.constexpr, EXTRA: tl.constexpr, DENSE: tl.constexpr,
    E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Sum a block of latent j's gradient from the pieces of ``gradients.Pieces``: (C,)."""
    gradient = tl.zeros((C,), tl.float32)
    if GATHERED:
        first, last = tl.load(bounds + j), tl.load(bounds + j + 1)
        gradient += _rows_sum(rows, coefficients, x, stride_x, first, last, columns, inside, E, C)
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
def squares_kernel(
    w, out, latents, width, rows, coefficients, bounds, x, stride_x, scale, place, extra, dense,
    GATHERED: tl.constexpr, SCALED: tl.constexpr, EXTRA: tl.constexpr, DENSE: tl.constexpr, E: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """Sum the squares of a block of the gradient, which is not kept.

    A program takes (latent, block of columns), latents fastest.
    """
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    at = j * width + columns
    weight = tl.zeros((C,), tl.float32)
    if SCALED:
        weight = tl.load(w + at, mask=inside, other=0.0)
    gradient = _gradient(
        j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra,
        dense, GATHERED, SCALED, EXTRA, DENSE, E, C,
    )  # fmt: skip
    tl.store(out + block * latents + j, tl.sum(gradient * gradient, 0))


@triton.jit
def adam_kernel(
    w, mean, square, factor, step_size, root, rounded, norms, latents, width, rows, coefficients, bounds, x,
    stride_x, scale, place, extra, dense, b1, b2, epsilon, ROUNDED: tl.constexpr, PER_MODEL: tl.constexpr,
    GATHERED: tl.constexpr, SCALED: tl.constexpr, EXTRA: tl.constexpr, DENSE: tl.constexpr, E: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """Make a step of Adam in place on a block (latent, columns), with the gradient times *factor.

    The same pass stores squared norms of the new weights, (block, 2, latents). With ROUNDED they are those of
    the row and of what rounding to bfloat16 takes from it, and the rounded copy is stored, too. With
    PER_MODEL they are those of the two models' halves.

    Latents are fastest. So the gathered block of columns of x stays in the cache while w and its moments
    stream through.
    """
    j, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * C + tl.arange(0, C)
    inside = columns < width
    at = j * width + columns
    weight = tl.load(w + at, mask=inside, other=0.0, eviction_policy="evict_first")
    m = tl.load(mean + at, mask=inside, other=0.0, eviction_policy="evict_first")
    v = tl.load(square + at, mask=inside, other=0.0, eviction_policy="evict_first")
    gradient = tl.load(factor) * _gradient(
        j, columns, inside, at, weight, width, rows, coefficients, bounds, x, stride_x, scale, place, extra,
        dense, GATHERED, SCALED, EXTRA, DENSE, E, C,
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
def above_kernel(
    product, bounds, norm, lost, lost_x, norm_x, flat, number, batch, latents, room, relative,
    BY_LATENT: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Find where product_rj, with its error, could exceed bound_j.

    The flat places are r latents + j, or j batch + r (BY_LATENT), in no order. ``number`` counts all of them,
    also those that ``room`` has no place for. A program takes (block of latents, ROWS rows).
    """
    columns = tl.program_id(0) * C + tl.arange(0, C)
    inside = columns < latents
    bound = tl.load(bounds + columns, mask=inside, other=float("inf"))
    norm_j = tl.load(norm + columns, mask=inside, other=0.0)
    lost_j = tl.load(lost + columns, mask=inside, other=0.0)
    for i in range(ROWS):
        row = tl.program_id(1) * ROWS + i
        there = row < batch
        at = row.to(tl.int64) * latents + columns
        known = inside & there
        stored = tl.load(product + at, mask=known, other=float("-inf"), eviction_policy="evict_first")
        value = stored.to(tl.float32)
        lost_r = tl.load(lost_x + row, mask=there, other=0.0)
        norm_r = tl.load(norm_x + row, mask=there, other=0.0)
        slack = lost_r * norm_j + norm_r * lost_j
        hit = (value + relative * tl.abs(value) + slack > bound).to(tl.int32)
        found = tl.sum(hit, 0)
        if found > 0:
            place = tl.atomic_add(number, found) + tl.cumsum(hit, 0) - 1
            if BY_LATENT:
                at = columns.to(tl.int64) * batch + row
            tl.store(flat + place, at, mask=(hit > 0) & (place < room))
