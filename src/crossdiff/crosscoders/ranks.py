"""One training on several GPUs: what all ranks must know about the whole batch is exchanged here.

Every rank takes its share of each batch. This is data-parallel training as in PyTorch's DDP, started by
torchrun (``parallel.py``). All ranks hold the same weights, a loss is the mean over the rank's share, and
gradients are averaged before the step. In a single process the tensors are returned unchanged.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from crossdiff.crosscoders.gradients import made_gradient


def size() -> int:
    """Return the number of ranks. It is 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank, 0-based. Rank 0 writes logs, checkpoints and outputs."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(values: Tensor) -> Tensor:
    """Return the sum over ranks, with the same bits on every rank and no gradient. Shapes must agree."""
    return _reduced(values, dist.ReduceOp.SUM)


def mean(values: Tensor) -> Tensor:
    """Return the mean over ranks, without a gradient.

    Shares are equal, so the mean over ranks of means over shares is the mean over the batch.
    """
    return total(values) / size() if size() > 1 else values


def least(values: Tensor) -> Tensor:
    """Return the smallest value over ranks, element by element, without a gradient."""
    return _reduced(values, dist.ReduceOp.MIN)


def gathered(rows: Tensor) -> tuple[Tensor, slice]:
    """Return the rows (rows, ...) of all ranks, rank after rank, and the slice of this rank's rows.

    They have no gradient. Ranks may have different numbers of rows. The call waits for the device to learn
    these numbers.
    """
    if size() == 1:
        return rows, slice(None)
    counts = _counts(len(rows), rows.device)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])  # a collective needs equal shapes
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    first = sum(counts[: rank()])
    joined = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return joined, slice(first, first + len(rows))


def average_gradients(module: torch.nn.Module) -> None:
    """Replace every parameter's gradient by its mean over ranks: the gradient of the whole batch's loss."""
    if size() > 1:
        for parameter in module.parameters():
            gradient = made_gradient(parameter)
            dist.all_reduce(gradient)
            gradient /= size()


def _reduced(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values, operation)
    return values


def _counts(rows: int, device: torch.device) -> list[int]:
    """Return the ``rows`` of every rank."""
    mine = torch.tensor([rows], device=device)
    counts = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]
