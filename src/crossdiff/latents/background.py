"""Random contexts, the same for every latent, each with the list of all latents that fire in it.

They show where a latent does not fire.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from crossdiff.config import Examples
from crossdiff.latents.firings import Firings
from crossdiff.texts.columns import ranges
from crossdiff.texts.shards import Shard

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # number of the shard
        ("document", pa.int64()),
        ("start", pa.int64()),  # row of the context's first token
        ("centre", pa.int32()),  # place in the context of the token that was drawn
        ("tokens", pa.list_(pa.int32())),
        ("latents", pa.list_(pa.int32())),  # those that fire on any token of the context, in order
    ]
)


class BackgroundCollector:
    """Draws tokens from a stream of firings, and keeps the context around each.

    The context is the one that an example with its peak at that token would have. A token is drawn if its
    random key is small enough. So about as many are drawn as ``settings.background`` asks for, and the same
    ones however the stream is cut.
    """

    def __init__(self, shards: Sequence[Shard], tokens: int, settings: Examples) -> None:
        """``tokens``: how many tokens the stream holds."""
        self.shards, self.settings = shards, settings
        self.highest_key = np.uint64(min(1.0, settings.background / max(tokens, 1)) * (2**64 - 2**11))
        self.parts: list[pa.RecordBatch] = []

    def add(self, firings: Firings) -> None:
        """Read firings of whole sequences. They must come in order of shards and rows."""
        tokens = self.shards[firings.shard]
        keys = pd.util.hash_array(np.uint64(firings.shard) << np.uint64(40) | firings.rows.astype(np.uint64))
        centre = firings.rows[keys <= self.highest_key]
        if not len(centre):
            return
        starts, stops = tokens.sequence_bounds()
        sequence = np.searchsorted(starts, centre, side="right") - 1
        start = np.maximum(starts[sequence], centre - self.settings.before)
        stop = np.minimum(stops[sequence], centre + self.settings.after + 1)
        rows = ranges(start, stop - start)
        columns = {
            "shard": np.full(len(centre), firings.shard, np.int32),
            "document": tokens.document[centre],
            "start": start,
            "centre": (centre - start).astype(np.int32),
            "tokens": pa.ListArray.from_arrays(_offsets(stop - start), tokens.token[rows]),
            "latents": self._latents(firings, start, stop),
        }
        self.parts.append(pa.RecordBatch.from_pydict(columns, SCHEMA))

    def _latents(self, firings: Firings, start: np.ndarray, stop: np.ndarray) -> pa.ListArray:
        """List the latents that fire from each ``start`` up to its ``stop`` (rows of the shard)."""
        order = np.argsort(firings.row, kind="stable")
        low, high = (np.searchsorted(firings.row[order], rows) for rows in (start, stop))
        count = high - low
        context = np.repeat(np.arange(len(start), dtype=np.int64), count)
        entry = order[ranges(low, count)]
        pairs = np.unique(context << 32 | firings.latent[entry])
        per_context = np.bincount(pairs >> 32, minlength=len(start))
        return pa.ListArray.from_arrays(_offsets(per_context), (pairs & 0xFFFFFFFF).astype(np.int32))

    def table(self) -> pa.Table:
        """All contexts, with the columns of SCHEMA."""
        return pa.Table.from_batches(self.parts, SCHEMA)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(counts)).astype(np.int32)
