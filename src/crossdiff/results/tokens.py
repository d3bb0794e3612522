"""What goes into a crosscoder and what comes out, token by token."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from crossdiff.errors import UserError
from crossdiff.results.home import PairNames


@dataclass(frozen=True, eq=False)
class TextActivations:
    """Both models' raw activations of one text, from ``Pair.activations``."""

    values: Tensor  # (tokens, model, d_model) float32, on the CPU; model 0 = base, 1 = chat
    tokens: list[str]
    # (tokens,) bool. False for first tokens and outliers: no crosscoder was trained on these.
    counts: np.ndarray
    layer: int
    names: PairNames


@dataclass(frozen=True, eq=False)
class Codes:
    """Activations of all latents of one crosscoder on some tokens, from ``LoadedCrosscoder.encode``."""

    values: Tensor  # (tokens, latents) float32, on the CPU
    tokens: list[str] | None  # None where the activations came without text
    crosscoder: str  # the folder of the crosscoder that made them

    def __len__(self) -> int:
        return len(self.values)


def whole(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """``value`` as an int. Raises UserError for what is no whole number, and beyond the bounds."""
    allowed = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or not _within(number, lowest, highest):
        raise UserError(f"{name}: found {value!r}, allowed: whole numbers, {allowed}")
    return number


def _within(number: int, lowest: int, highest: int | None) -> bool:
    return lowest <= number and (highest is None or number <= highest)
