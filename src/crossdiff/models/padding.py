"""Pad sequences of unequal length to one rectangle, which a model reads."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor


def padded(
    sequences: Sequence[np.ndarray], side: Literal["left", "right"] = "right", width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sequences of ids as rows, padded with 0 on one side.

    Returns the ids (int64) and whether each is real (bool), both (sequences, positions). ``width`` is the
    number of positions, by default the length of the longest sequence. ``ids[real]`` gives all ids, sequence
    after sequence. Raises ValueError if there are no sequences, or if one is longer than ``width``.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    width = lengths.max() if width is None else width
    place = np.arange(width)
    real = place < lengths[:, None] if side == "right" else place >= width - lengths[:, None]
    ids = np.zeros(real.shape, np.int64)
    ids[real] = np.concatenate(sequences)  # in NumPy, because torch assigns through a mask much more slowly
    return torch.from_numpy(ids), torch.from_numpy(real)
