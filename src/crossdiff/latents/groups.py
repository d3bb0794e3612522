"""Groups of confirmed latents: which of them stand for one concept? (docs/method.md 23)

A concept often has several latents, for example one for each word of a refusal. They fire on different
tokens of the same texts, or have nearly one direction.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array

from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.texts.shards import Shard

ALIKE = 0.5  # latents are joined while their mean likeness is at least this


class CoFiring:
    """Counts the sequences in which latents fire, each and together, and their firings by data set."""

    def __init__(
        self, active: str | Path, shards: Sequence[Shard], datasets: Sequence[str], latents: np.ndarray
    ):
        """Read the file of active entries.

        ``datasets`` names the data set of each of ``shards``. ``latents`` (n,) are the latents that count, in
        increasing order.
        """
        self.sequences = 0
        self.together = np.zeros((len(latents), len(latents)), np.int64)  # sequences in which both fire
        self.by_dataset = {name: np.zeros(len(latents), np.int64) for name in dict.fromkeys(datasets)}
        self.tokens = dict.fromkeys(self.by_dataset, 0)
        starts = [shard.sequence_starts() for shard in shards]
        for found in ActiveFile(active):
            token = np.repeat(np.arange(len(found.rows)), np.diff(found.bounds))
            place = np.searchsorted(latents, found.latent)
            chosen = np.isin(found.latent, latents)
            place, row = place[chosen], found.rows[token[chosen]]
            sequence = np.searchsorted(starts[found.shard], row, side="right")
            names, column = np.unique(sequence, return_inverse=True)
            fires = csr_array((np.ones(len(place), np.int64), (place, column)), (len(latents), len(names)))
            fires.data[:] = 1
            self.together += (fires @ fires.T).toarray()
            self.sequences += len(np.unique(np.searchsorted(starts[found.shard], found.rows, side="right")))
            name = datasets[found.shard]
            self.by_dataset[name] += np.bincount(place, minlength=len(latents))
            self.tokens[name] += len(found.rows)

    def correlation(self) -> np.ndarray:
        """The correlation over sequences of "fires in it": (n, n), 0 where a latent fires in all or none."""
        alone = np.diag(self.together).astype(float)
        covariance = (
            self.together / max(self.sequences, 1) - np.outer(alone, alone) / max(self.sequences, 1) ** 2
        )
        spread = np.sqrt(np.clip(np.diag(covariance), 0, None))
        scale = np.outer(spread, spread)
        return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def groups(directions: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Put latents into groups: (n,) int, numbers from 0 in order of first members.

    The likeness of two latents is the larger of the cosine of their ``directions`` (n, d_model) and their
    ``correlation`` (n, n). Groups are joined by the mean likeness of their latents, down to ALIKE.
    """
    if len(directions) < 2:
        return np.zeros(len(directions), int)
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    likeness = np.maximum(unit @ unit.T, correlation)
    distance = np.clip(1 - likeness[np.triu_indices(len(unit), 1)], 0, None)  # a cosine may round to above 1
    found = fcluster(linkage(distance, "average"), 1 - ALIKE, "distance")
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def group_table(
    betas: pd.DataFrame,
    directions: np.ndarray,
    active: str | Path,
    shards: Sequence[Shard],
    datasets: Sequence[str],
) -> pd.DataFrame:
    """Group latents, and count where they fire. One row per latent of ``betas`` and data set.

    ``betas`` are rows of the beta table, in order of latents. ``directions`` (rows, d_model) are the
    directions of what each claims: of the chat decoder, or of the base decoder for base-only ones. Columns:

    - latent
    - group: number of its group. Base-only latents have groups of their own.
    - strength: frequency x mean activation x norm of the direction, which orders groups and their latents
    - dataset: name of a data set
    - firings: tokens of the data set on which the latent fires
    - tokens: kept tokens of the data set
    """
    latents = betas.latent.to_numpy(copy=True)
    found = CoFiring(active, shards, datasets, latents)
    likeness = found.correlation()
    number = np.zeros(len(betas), int)
    for base_only in (False, True):
        rows = np.flatnonzero((betas["class"] == "base-only").to_numpy() == base_only)
        if len(rows):
            own = groups(directions[rows], likeness[np.ix_(rows, rows)])
            number[rows] = own + (number.max() + 1 if base_only and len(rows) < len(betas) else 0)
    strength = betas.frequency * betas.mean_activation * np.linalg.norm(directions, axis=1)
    known = pd.DataFrame({"latent": latents, "group": number, "strength": strength.to_numpy()})
    parts = [
        known.assign(dataset=name, firings=firings, tokens=found.tokens[name])
        for name, firings in found.by_dataset.items()
    ]
    return pd.concat(parts, ignore_index=True)
