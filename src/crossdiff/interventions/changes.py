"""Changes of a residual stream at one layer: something is added, or a component is removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossdiff.models.parts import decoder_layers


class Change(NamedTuple):
    """A change of the layer's output h at a steered token, to h - <h, removed> removed + added."""

    added: Tensor  # (d_model,) float32
    removed: Tensor  # (d_model,) float32, a unit vector or zero

    @classmethod
    def nothing(cls, width: int) -> "Change":
        """Leave residual streams of ``width`` dimensions as they are."""
        return cls.add(torch.zeros(width))

    @classmethod
    def add(cls, vector: Tensor) -> "Change":
        """Add ``vector`` (d_model,)."""
        return cls(vector, torch.zeros_like(vector))

    @classmethod
    def ablate(cls, direction: Tensor) -> "Change":
        """Remove the component along ``direction`` (d_model,), which may have any length."""
        return cls(torch.zeros_like(direction), direction / direction.norm())


def changed(hidden: Tensor, changes: Change, steered: Tensor) -> Tensor:
    """Change ``hidden`` (rows, positions, d_model) where ``steered`` (rows, positions) is true.

    Each row has its own change: both fields of ``changes`` are (rows, d_model).
    """
    added, removed = (part[:, None].to(hidden.device) for part in changes)
    new = hidden.float()
    new = new - (new * removed).sum(dim=2, keepdim=True) * removed + added
    return torch.where(steered[..., None].to(hidden.device), new.to(hidden.dtype), hidden)


@contextmanager
def changing(model: PreTrainedModel, layer: int, changes: Change, steered: Tensor) -> Iterator[None]:
    """Change the output of block ``layer`` inside the context."""

    def change(
        _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, tuple):
            return changed(output[0], changes, steered), *output[1:]
        return changed(output, changes, steered)

    handle = decoder_layers(model)[layer].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
