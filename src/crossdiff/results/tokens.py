"""What goes into a crosscoder and what comes out, token by token."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from crossdiff.results.home import PairNames


@dataclass(frozen=True)
class TextActivations:
    """Both models' raw activations of one text, from ``Pair.activations``."""

    values: Tensor  # (tokens, model, d_model) float32, on the CPU; model 0 = base, 1 = chat
    tokens: list[str]
    counts: (
        np.ndarray
    )  # (tokens,) bool: False for first tokens and outliers, which no crosscoder was trained on
    layer: int
    names: PairNames


@dataclass(frozen=True)
class Codes:
    """Activations of all latents on some tokens, from ``LoadedCrosscoder.encode``."""

    values: Tensor  # (tokens, latents) float32, on the CPU
    tokens: list[str] | None  # None where the activations came without text

    def __len__(self) -> int:
        return len(self.values)
