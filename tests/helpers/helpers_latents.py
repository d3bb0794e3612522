"""Firings and beta tables made from plain arrays."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crossdiff.latents.firings import Firings


def firings_of(codes: np.ndarray, number: int, rows: np.ndarray) -> Firings:
    """Give the firings on some rows of a shard with codes ``codes`` (rows, latents)."""
    latent, place = np.nonzero(codes[rows].T)
    return Firings(
        number, rows, latent.astype(np.int32), rows[place], codes[rows[place], latent].astype(np.float32)
    )


def classed(classes: Sequence[str], difference: Sequence[float] | None = None) -> pd.DataFrame:
    """Make a beta table of latents with these classes.

    Without ``difference``, later latents lean more to the chat model.
    """
    table = pd.DataFrame({"latent": range(len(classes)), "class": list(classes)})
    table["relative_norm_difference"] = np.linspace(0, 1, len(classes)) if difference is None else difference
    return table
