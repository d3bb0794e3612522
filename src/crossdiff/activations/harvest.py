"""Harvest activations: one pass of one model over one token shard, up to a layer.

Forward passes, copies to the host, compression and writing run at the same time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.cache import CacheWriter, cache_writer
from crossdiff.device import ToHost, to_device
from crossdiff.errors import UserError
from crossdiff.models.forward import run_to_layer
from crossdiff.models.replacements import check_ids
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

# Tokens of a window, whose sequences are sorted by length together. About as many are in memory.
WINDOW = 2**20
# Batches that the device may compute before they are stored. It works on while a window's last chunks are
# written.
AHEAD = 6


def length_batches(starts: np.ndarray, rows: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Group sequences into batches, the longest first, and yield each group's sequence numbers.

    A group has at most ``batch_tokens`` tokens, padding included, or it is a single sequence. ``starts``
    (sequences,) are the first rows of the sequences, and ``rows`` is the number of all rows.
    """
    lengths = np.diff(np.append(starts, rows))
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + size]
        first += size


class Window(NamedTuple):
    """Sequences that are sorted by length together."""

    stop: int  # the row after the window's last one
    groups: list[np.ndarray]  # for each batch, the numbers of its sequences in the shard


def windows(shard: Shard, batch_tokens: int) -> Iterator[Window]:
    """Split the shard's sequences, in order, into windows of about WINDOW tokens.

    ``length_batches`` makes the batches of each window.
    """
    starts, stops = shard.sequence_bounds()
    for part in np.split(np.arange(len(starts)), np.flatnonzero(np.diff(starts // WINDOW)) + 1):
        first, stop = part[0], int(stops[part[-1]])
        groups = length_batches(starts[part] - starts[first], stop - starts[first], batch_tokens)
        yield Window(stop, [first + group for group in groups])


class Batch(NamedTuple):
    """Some sequences, padded on the right."""

    ids: Tensor  # (sequence, position) int64
    places: Tensor  # (tokens,) where the real tokens stand in the flattened ``ids``, in the order of ``rows``
    rows: np.ndarray  # (tokens,) the rows of these tokens in the shard, ascending


def batch_of(shard: Shard, starts: np.ndarray, lengths: np.ndarray) -> Batch:
    """Make a batch of the sequences that start in rows ``starts`` and have ``lengths``, both (sequence,)."""
    position = np.arange(lengths.max())
    real = position < lengths[:, None]
    rows = starts[:, None] + position
    ids = np.zeros(real.shape, np.int64)
    ids[real] = shard.token[rows[real]]
    order = np.argsort(starts)
    places = order[:, None] * len(position) + position
    return Batch(torch.from_numpy(ids), torch.from_numpy(places[real[order]]), rows[order][real[order]])


def harvest_shard(
    model: PreTrainedModel, shard: Shard, layer: int, batch_tokens: int, path: str | Path
) -> None:
    """Write the output of block ``layer`` for every token of the shard as a cache.

    Memory holds about (WINDOW, d_model) bfloat16. Raises UserError for NaN or infinite activations, and for
    a token that the model can't read.
    """
    check_ids(model, shard.token)
    starts, stops = shard.sequence_bounds()
    total, to_host = len(shard.token), ToHost(model.device)
    waiting: deque[Future] = deque()
    with (
        cache_writer(path, total, model.config.get_text_config().hidden_size, layer, shard.token) as writer,
        ThreadPoolExecutor(1) as storing,
    ):
        for window in windows(shard, batch_tokens):
            bad: list[np.ndarray] = []
            for group in window.groups:
                batch = batch_of(shard, starts[group], (stops - starts)[group])
                hidden = run_to_layer(model, to_device(batch.ids, model.device), layer).flatten(0, 1)
                values = hidden.index_select(0, to_device(batch.places, model.device)).to(torch.bfloat16)
                landing = to_host(values, values.isfinite().all(dim=1))
                waiting.append(storing.submit(_store, writer, batch.rows, landing, bad))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
            # The one thread that stores runs this after all batches of the window.
            waiting.append(storing.submit(_check, shard, layer, window.stop, bad))
        for stored in waiting:
            stored.result()


def _store(
    writer: CacheWriter, rows: np.ndarray, landing: Callable[[], list[Tensor]], bad: list[np.ndarray]
) -> None:
    values, finite = landing()
    writer.write(rows, values)
    bad.append(rows[~finite.numpy()])


def _check(shard: Shard, layer: int, stop: int, bad: list[np.ndarray]) -> None:
    rows = np.concatenate(bad)
    log.info("%d of %d tokens", stop, len(shard.token))
    if len(rows):
        row = int(rows.min())
        raise UserError(
            f"{len(rows):,} of {stop:,} tokens have NaN or infinite activations at layer {layer}, "
            f"the first in row {row} (document {shard.document[row]}, position {shard.position[row]})"
        )
