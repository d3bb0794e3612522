"""Where latents fire: all activations of all latents, read from the file of active entries."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from crossdiff.crosscoders.active_file import ActiveFile, ActiveTokens
from crossdiff.texts.shards import Shard


class Firings(NamedTuple):
    """All activations on some whole sequences of one shard, ordered by latent, then row."""

    shard: int  # number of the shard
    rows: np.ndarray  # (tokens,) int64, the kept rows that were read, in order
    latent: np.ndarray  # (entries,) int32
    row: np.ndarray  # (entries,) int64, in the shard
    value: np.ndarray  # (entries,) float32

    @classmethod
    def of(cls, found: ActiveTokens) -> "Firings":
        """Sort the same entries by latent."""
        width = int(found.latent.max(initial=-1)) + 1
        by_row = csr_array((found.value, found.latent, found.bounds), shape=(len(found.rows), width))
        by_latent = by_row.tocsc()
        latent = np.repeat(np.arange(width, dtype=np.int32), np.diff(by_latent.indptr))
        return cls(found.shard, found.rows, latent, found.rows[by_latent.indices], by_latent.data)


def read_firings(path: str | Path, shards: Sequence[Shard], tokens: int | None = None) -> Iterator[Firings]:
    """Read the activations on all kept tokens, or on about ``tokens`` of them.

    With ``tokens``, every shard gives an equal number from its start, so that no data set is left out. The
    last sequence is read to its end, because a context that reaches past a cut would lack what fires there.
    """
    file = ActiveFile(path)
    left = [file.tokens if tokens is None else -(-tokens // len(shards))] * len(shards)
    for group in range(file.groups):
        shard = file.shard(group)
        if left[shard] > 0:
            found = file.read(group)
            if left[shard] < len(found.rows):
                found = found.first(_whole(found.rows, shards[shard].sequence_starts(), left[shard]))
            left[shard] -= len(found.rows)
            yield Firings.of(found)


def _whole(rows: np.ndarray, starts: np.ndarray, share: int) -> int:
    """The number of kept ``rows`` from the first to the end of the sequence in which number ``share`` lies.

    ``starts`` are the first rows of all sequences.
    """
    sequence = np.searchsorted(starts, rows, side="right")
    return int(np.searchsorted(sequence, sequence[share - 1], side="right"))
