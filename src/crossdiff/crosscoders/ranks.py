"""One training on several GPUs: every rank takes its share of each batch, and what must be known of the whole batch is exchanged here.

Data-parallel training as PyTorch's DDP does it, started by torchrun (``parallel.py``): all ranks hold the same weights, a loss is the mean
over the rank's share, and gradients are averaged before the step. In one process every function gives back what it is given.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def size() -> int:
    """Number of ranks; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This rank, 0-based; rank 0 writes logs, checkpoints and outputs."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(values: Tensor) -> Tensor:
    """The sum over ranks, of tensors of one shape; the same bits on every rank. No gradient."""
    return _reduced(values, dist.ReduceOp.SUM)


def mean(values: Tensor) -> Tensor:
    """The mean over ranks. That of means over shares is the mean over the batch: shares are equal. No gradient."""
    return total(values) / size() if size() > 1 else values


def least(values: Tensor) -> Tensor:
    """The smallest over ranks, element by element. No gradient."""
    return _reduced(values, dist.ReduceOp.MIN)


def gathered(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows of all ranks, rank after rank, and where this rank's are. One may have more than another, which is asked of the device. No
    gradient."""
    if size() == 1:
        return rows, slice(None)
    counts = _counts(len(rows), rows.device)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])  # a collective takes equal shapes only
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    first = sum(counts[: rank()])
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), slice(
        first, first + len(rows)
    )


def average_gradients(module: torch.nn.Module) -> None:
    """Replace the gradient of every parameter by its mean over ranks: that of the loss of the whole batch."""
    if size() > 1:
        for parameter in module.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= size()


def _reduced(values: Tensor, operation: dist.ReduceOp) -> Tensor:
    if size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values, operation)
    return values


def _counts(rows: int, device: torch.device) -> list[int]:
    """``rows`` of every rank."""
    mine = torch.tensor([rows], device=device)
    counts = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]
