"""The operations that Triton kernels compute. ``kernels.of`` imports them only where Triton runs.

Shapes: w (latents, width), x (batch, width), both with rows of consecutive numbers. Entries (row, latent,
value) are those of ``crosscoders.sparse``. Block sizes were chosen on an H200 at width 4,608.
"""

import torch
import triton
from torch import Tensor

from crossdiff.crosscoders.gradients import Pieces
from crossdiff.crosscoders.kernels.triton_kernels import (
    above_kernel,
    adam_kernel,
    codes_kernel,
    dot_products_kernel,
    rows_per_latent_kernel,
    squares_kernel,
    weighted_rows_kernel,
)

COLUMNS = 512  # of a row that a program holds
ROOM = 4096  # places by which room for candidates grows
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults

# From the shape of a product to the number of places to make room for: slightly more than were found last.
_room: dict[tuple[int, ...], int] = {}


def weighted_rows(w: Tensor, latents: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """out_r = sum_e [r_e = r] f_e w_{j_e}: (batch, width).

    Entries are in the order of rows. ``offsets`` (batch,) holds the first entry of each row.
    """
    out = torch.empty(len(offsets), w.shape[1], device=w.device)
    grid = (len(offsets), triton.cdiv(w.shape[1], 256))
    if len(offsets):
        weighted_rows_kernel[grid](
            latents, values, offsets, len(latents), w, out, *out.shape, w.stride(0), 8, 256, num_warps=2
        )
    return out


def dot_products(w: Tensor, x: Tensor, entries: Tensor, latents: Tensor, rows: Tensor) -> Tensor:
    """out_e = <w_{j_e}, x_{r_e}>: (entries,).

    ``latents`` and ``rows`` are in the order of latents, and ``entries`` are the numbers of the entries
    there.
    """
    out = torch.empty(len(entries), device=w.device)
    if len(entries):
        grid = (triton.cdiv(len(entries), 4),)
        strides = w.stride(0), x.stride(0)
        dot_products_kernel[grid](
            entries, latents, rows, len(entries), w, x, out, w.shape[1], *strides, 4, COLUMNS, num_warps=4
        )
    return out


def rows_per_latent(rows: Tensor, coefficients: Tensor, bounds: Tensor, x: Tensor) -> Tensor:
    """out_j = sum_e [j_e = j] f_e x_{r_e}: (latents, width).

    Entries are in the order of latents. Entries bounds[j] to bounds[j + 1] of ``bounds`` (latents + 1,)
    belong to latent j.
    """
    out = torch.empty(len(bounds) - 1, x.shape[1], device=x.device)
    grid = (len(out), triton.cdiv(x.shape[1], COLUMNS))
    rows_per_latent_kernel[grid](
        rows, coefficients, bounds, x, out, x.shape[1], x.stride(0), 4, COLUMNS, num_warps=4
    )
    return out


def places_above(product: Tensor, bounds: Tensor, w_errors: Tensor, x_errors: Tensor) -> Tensor:
    """Return the flat places (places,), ascending, where the exact product could exceed ``bounds``.

    ``bounds`` is (latents,). ``product`` is (batch, latents), computed with an error. ``w_errors`` (2,
    latents) and ``x_errors`` (2, batch) bound the error (``selection.Encoder.errors``).
    """
    number = torch.zeros((), dtype=torch.int32, device=product.device)
    while True:
        room = _room_for(product)
        flat = _above(product, bounds, w_errors, x_errors, room, number, False)
        if _is_room(product, room, found := int(number)):
            return flat[:found].sort().values.long()


def codes_above(
    product: Tensor, bounds: Tensor, w_errors: Tensor, x_errors: Tensor, w: Tensor, bias: Tensor, x: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Find the places of ``places_above`` and their codes, without waiting for the device.

    Gives, latent by latent, the places j batch + r, the values relu(<w_j, x_r> + bias_j), these times
    ``weights`` (latents,), and how many were found, (). The first three are (room,). Beyond the found places
    the values are -1. Whether there was room for all of them must be asked later (``is_room``).
    """
    number, room = torch.zeros((), dtype=torch.int32, device=product.device), _room_for(product)
    flat = _above(product, bounds, w_errors, x_errors, room, number, True).sort().values
    values, scaled = torch.empty(room, device=w.device), torch.empty(room, device=w.device)
    strides = w.stride(0), x.stride(0)
    codes_kernel[(triton.cdiv(room, 4),)](
        flat, number, len(product), w, x, bias, weights, values, scaled, w.shape[1], *strides, 4, COLUMNS,
        num_warps=4,
    )  # fmt: skip
    return flat, values, scaled, number


def _above(
    product: Tensor, bounds: Tensor, w_errors: Tensor, x_errors: Tensor, room: int, number: Tensor,
    by_latent: bool,
) -> Tensor:  # fmt: skip
    batch, latents = product.shape
    # A bfloat16 product is rounded once more when it is stored.
    relative = 2**-8 if product.dtype == torch.bfloat16 else 2**-20
    dtype = torch.int32 if product.numel() < 2**31 else torch.int64
    flat = torch.full((room,), torch.iinfo(dtype).max, dtype=dtype, device=product.device)
    grid = (triton.cdiv(latents, 512), triton.cdiv(batch, 16))
    number.zero_()
    above_kernel[grid](
        product, bounds, *w_errors, *x_errors, flat, number, batch, latents, room, relative, by_latent,
        16, 512, num_warps=2,
    )  # fmt: skip
    return flat


def _room_for(product: Tensor) -> int:
    """Return the number of places to make room for.

    It grows in large steps, so that memory of the same size is asked for again and again. It is a multiple of
    4, because a program of ``codes_above`` takes 4 entries.
    """
    return -(-_room.get(product.shape, product.numel() // 256) // ROOM) * ROOM + ROOM


def is_room(product: Tensor, found: int) -> bool:
    """Return whether ``codes_above`` had room for all ``found`` places. If not, it has the next time."""
    return _is_room(product, _room_for(product), found)


def _is_room(product: Tensor, room: int, found: int) -> bool:
    _room[product.shape] = found + found // 8
    return found <= room


class Gradient:
    """The gradient of a matrix ``w`` (latents, width) as the kernels take it.

    It is the sum of ``dense`` (latents, width), if there is one, and ``pieces``. A kernel gets ``w`` itself
    in place of a tensor that it does not need.
    """

    def __init__(self, w: Tensor, dense: Tensor | None, pieces: Pieces) -> None:
        gathered = pieces.gathered
        if len(gathered) > 1:
            for part in gathered:
                rows_sum = rows_per_latent(part.rows, part.coefficients, part.bounds, part.x)
                dense = rows_sum if dense is None else dense.view_as(w) + rows_sum
            gathered = []
        nowhere = torch.zeros(0, dtype=torch.long, device=w.device)
        rows, values, bounds, x = gathered[0] if gathered else (nowhere, w, nowhere, w)
        scale = sum(pieces.scales[1:], start=pieces.scales[0]).contiguous() if pieces.scales else w
        place, extra = _extra_rows(len(w), pieces.rows) if pieces.rows else (nowhere, w)
        added = w if dense is None else dense
        self.arguments = (rows, values, bounds, x, x.stride(0), scale, place, extra, added)
        self.flags = {
            "GATHERED": bool(gathered),
            "SCALED": bool(pieces.scales),
            "EXTRA": bool(pieces.rows),
            "DENSE": dense is not None,
        }


def _extra_rows(latents: int, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return where each latent's row stands, (latents,) with -1 for none, and the rows (n, width)."""
    numbers, rows = parts[0]
    if len(parts) > 1:
        numbers, inverse = torch.cat([part[0] for part in parts]).unique(return_inverse=True)
        together = torch.cat([part[1] for part in parts])
        rows = together.new_zeros(len(numbers), together.shape[1]).index_add_(0, inverse, together)
    place = numbers.new_full((latents,), -1)
    place[numbers] = torch.arange(len(numbers), device=numbers.device)
    return place, rows.contiguous()


def squared_norm(w: Tensor, gradient: Gradient) -> Tensor:
    """Return the squared norm, (), of the gradient of ``w`` (latents, width), without making the gradient."""
    latents, width = w.shape
    blocks = triton.cdiv(width, 1024)
    out = torch.empty(blocks, latents, device=w.device)
    squares_kernel[(latents, blocks)](
        w, out, latents, width, *gradient.arguments, **gradient.flags, E=2, C=1024, num_warps=4
    )
    return out.sum()


def adam(
    w: Tensor, mean: Tensor, square: Tensor, gradient: Gradient, factor: Tensor, learning_rate: float,
    step: int, rounded: Tensor | None = None, per_model: bool = False,
) -> Tensor | None:  # fmt: skip
    """Make a step of Adam in place on ``w`` (latents, width) and its moments.

    The gradient is multiplied by ``factor`` (). Gives norms (2, latents), or None. If ``rounded`` (latents,
    width) is given, it becomes a bfloat16 copy of ``w``, and the norms are those of each row and of what
    rounding took from it. If ``per_model`` is true, they are those of each row's halves.
    """
    latents, width = w.shape
    blocks = triton.cdiv(width, COLUMNS)
    norms = torch.empty(blocks, 2, latents, device=w.device) if per_model or rounded is not None else None
    adam_kernel[(latents, blocks)](
        w, mean, square, factor, learning_rate / (1 - BETA1**step), (1 - BETA2**step) ** -0.5,
        w if rounded is None else rounded, w if norms is None else norms, latents, width, *gradient.arguments,
        1 - BETA1, 1 - BETA2, EPSILON, ROUNDED=rounded is not None, PER_MODEL=per_model, **gradient.flags,
        E=4, C=COLUMNS, num_warps=4,
    )  # fmt: skip
    return None if norms is None else norms.sum(dim=0).sqrt_()


def probe(device: torch.device) -> None:
    """Compile and run a kernel. Raises whatever Triton raises if it can't."""
    one = torch.ones(1, 1, device=device)
    zero = torch.zeros(1, dtype=torch.long, device=device)
    weighted_rows(one, zero, one[0], zero)
