"""Contexts in which each latent fires: the strongest, and a sample of each quantile (docs/method.md 13)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from crossdiff.config import Examples
from crossdiff.latents.firings import Firings
from crossdiff.texts.columns import joined, places, ranges, taken
from crossdiff.texts.shards import Shard

SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("shard", pa.int32()),  # number of the shard
        ("document", pa.int64()),
        ("peak", pa.float32()),  # largest activation in the sequence
        # Upper edge of the peak's bin, as a share of the latent's largest activation.
        ("quantile", pa.float64()),
        ("strongest", pa.bool_()),  # among the latent's strongest contexts
        ("sampled", pa.bool_()),  # in the random sample of its bin
        ("start", pa.int64()),  # row of the context's first token
        # One entry per token of the context.
        ("tokens", pa.list_(pa.int32())),  # ids
        ("template", pa.list_(pa.int8())),  # 0 content, 1 header, 2 turn end
        ("activations", pa.list_(pa.float32())),  # of the latent
    ]
)
BATCH = 65_536  # contexts written at a time


class ExampleContexts(NamedTuple):
    """Contexts, at most one per latent and sequence. Each field is (contexts,) unless it says otherwise."""

    latent: np.ndarray  # int32
    shard: np.ndarray  # int32
    document: np.ndarray  # int64
    peak: np.ndarray  # float32
    bin: np.ndarray  # int8, index into the quantiles
    key: np.ndarray  # uint64, random
    start: np.ndarray  # int64, row of the first token
    length: np.ndarray  # int32
    window: np.ndarray  # (contexts, before + 1 + after) float32, zero past ``length``


class ExampleCollector:
    """Gathers contexts from a stream of firings.

    A sequence counts once for a latent, by its largest activation there.

    The random sample of a bin consists of the contexts with the smallest random keys. This is as fair as
    reservoir sampling. A key depends on the latent and the sequence only, so the sample is the same however
    the stream is cut. Memory holds about (per_latent + per_quantile x bins) contexts of each latent, and at
    most twice as many.
    """

    def __init__(self, shards: Sequence[Shard], largest: np.ndarray, settings: Examples) -> None:
        """``largest``: (latents,) the largest activation of each latent over all training tokens."""
        self.shards, self.settings, self.largest = shards, settings, largest
        self.bins = len(settings.quantiles)
        self.pool: list[ExampleContexts] = []
        self.pool_size, self.prune_at = 0, 0
        # What a new context must beat. The last pruning set these bounds, so they are never too strict.
        self.weakest = np.full(len(largest), -np.inf, np.float32)
        self.last_key = np.full(len(largest) * self.bins, np.iinfo(np.uint64).max)

    def add(self, firings: Firings) -> None:
        """Read firings of whole sequences. They must come in order of shards and rows."""
        if not len(firings.latent):
            return
        tokens = self.shards[firings.shard]
        sequence = firings.row - tokens.position[firings.row]  # its first row
        new_latent, new_sequence = np.diff(firings.latent, prepend=-1), np.diff(sequence, prepend=-1)
        first = np.flatnonzero((new_latent != 0) | (new_sequence != 0))
        latent, sequence = firings.latent[first], sequence[first]
        peak = np.maximum.reduceat(firings.value, first)
        edges = self.settings.quantiles
        above = (peak > edge * self.largest[latent] for edge in edges[:-1])
        bin = sum(above, start=np.zeros(len(peak), np.int8))
        key = _random_keys(latent, firings.shard, sequence)
        may_be_sampled = key < self.last_key[self._cell(latent, bin)]
        hopeful = np.flatnonzero((peak > self.weakest[latent]) | may_be_sampled)
        strongest, sampled = self._ranked(latent[hopeful], peak[hopeful], bin[hopeful], key[hopeful])
        chosen = hopeful[strongest | sampled]
        at_peak = np.flatnonzero(firings.value == np.repeat(peak, np.diff(first, append=len(firings.row))))
        centre = firings.row[at_peak[np.searchsorted(at_peak, first[chosen])]]
        starts, stops = tokens.sequence_bounds()
        start = np.maximum(sequence[chosen], centre - self.settings.before)
        stop = np.minimum(stops[np.searchsorted(starts, sequence[chosen])], centre + self.settings.after + 1)
        self.pool.append(
            ExampleContexts(
                latent=latent[chosen],
                shard=np.full(len(chosen), firings.shard, np.int32),
                document=tokens.document[start],
                peak=peak[chosen],
                bin=bin[chosen],
                key=key[chosen],
                start=start,
                length=(stop - start).astype(np.int32),
                window=self._windows(firings, latent[chosen], start, stop),
            )
        )
        self.pool_size += len(chosen)
        if self.pool_size > self.prune_at:
            self._prune()

    def _cell(self, latent: np.ndarray, bin: np.ndarray) -> np.ndarray:
        return latent.astype(np.int64) * self.bins + bin

    def _ranked(
        self, latent: np.ndarray, peak: np.ndarray, bin: np.ndarray, key: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tell which contexts are among their latent's strongest, and which are in their bin's sample.

        Both answers are (contexts,) bool. Of equal peaks the earlier one ranks first.
        """
        cell = self._cell(latent, bin)
        strongest = _places(latent, np.lexsort((-peak, latent))) < self.settings.per_latent
        sampled = _places(cell, np.lexsort((key, cell))) < self.settings.per_quantile
        return strongest, sampled

    def _windows(
        self, firings: Firings, latent: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> np.ndarray:
        """The activations of each ``latent`` from row ``start`` up to ``stop``.

        Gives (contexts, width) float32, zero from ``stop`` on.
        """
        span = len(self.shards[firings.shard].token) + 1
        place = firings.latent * np.int64(span) + firings.row  # in increasing order
        low, high = (np.searchsorted(place, latent * np.int64(span) + row) for row in (start, stop))
        count = high - low
        context = np.repeat(np.arange(len(latent)), count)
        entry = ranges(low, count)
        window = np.zeros((len(latent), self.settings.before + 1 + self.settings.after), np.float32)
        window[context, firings.row[entry] - start[context]] = firings.value[entry]
        return window

    def _prune(self) -> None:
        """Drop contexts that are no longer wanted.

        The next pruning comes when the pool has doubled, so all prunings together cost as much as the last
        few.
        """
        pool = joined(self.pool)
        strongest, sampled = self._ranked(pool.latent, pool.peak, pool.bin, pool.key)
        pool = taken(pool, strongest | sampled)
        self.pool, self.pool_size, self.prune_at = [pool], len(pool.latent), 2 * len(pool.latent)
        strongest, sampled = self._ranked(pool.latent, pool.peak, pool.bin, pool.key)
        latent, cell = pool.latent[strongest], self._cell(pool.latent, pool.bin)[sampled]
        _bound(self.weakest, latent, pool.peak[strongest], self.settings.per_latent, np.minimum)
        _bound(self.last_key, cell, pool.key[sampled], self.settings.per_quantile, np.maximum)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All contexts with the columns of SCHEMA: latent by latent, the strongest first.

        Equal peaks come in order of shard and row.
        """
        if not self.pool:
            return
        self._prune()
        [pool] = self.pool
        strongest, sampled = self._ranked(pool.latent, pool.peak, pool.bin, pool.key)
        order = np.lexsort((-pool.peak, pool.latent))
        first_row = np.cumsum([0, *(len(shard.token) for shard in self.shards)])
        token, template = (
            np.concatenate([getattr(shard, name) for shard in self.shards]) for name in ("token", "template")
        )
        quantiles = np.asarray(self.settings.quantiles)
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            part = taken(pool, chosen)
            inside = np.arange(part.window.shape[1]) < part.length[:, None]
            rows = ranges(first_row[part.shard] + part.start, part.length)
            offsets = np.append(0, np.cumsum(part.length, dtype=np.int32))
            columns = {
                "latent": part.latent,
                "shard": part.shard,
                "document": part.document,
                "peak": part.peak,
                "quantile": quantiles[part.bin],
                "strongest": strongest[chosen],
                "sampled": sampled[chosen],
                "start": part.start,
            }
            lists = {"tokens": token[rows], "template": template[rows], "activations": part.window[inside]}
            columns |= {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
            yield pa.RecordBatch.from_pydict(columns, SCHEMA)


def _random_keys(latent: np.ndarray, shard: int, sequence: np.ndarray) -> np.ndarray:
    place = np.uint64(shard) << np.uint64(40) | sequence.astype(np.uint64)
    return pd.util.hash_array(pd.util.hash_array(place) + latent.astype(np.uint64))


def _places(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The place of each element in its group, from 0.

    ``order`` sorts the elements by group, then by what decides the place.
    """
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.empty(len(order), np.int64)
    place[order] = places(np.diff(first, append=len(order)))
    return place


def _bound(bounds: np.ndarray, group: np.ndarray, values: np.ndarray, full: int, worst: np.ufunc) -> None:
    """Set the bound of each group to the worst of its values, if it holds ``full`` of them."""
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    is_full = np.diff(first, append=len(order)) == full
    bounds[group[order][first][is_full]] = worst.reduceat(values[order], first)[is_full]
