"""One pass of one model over one token shard, up to a layer. Forward passes, copies to the host, compression and writing run at once."""

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
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

WINDOW = 2**20  # tokens whose sequences are sorted by length together: about as many are in memory
AHEAD = 6  # batches that the device may be ahead of what is stored: while a window's last chunks are written


def length_batches(starts: np.ndarray, rows: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Groups of sequence numbers, longest first, each group of at most ``batch_tokens`` padded tokens (or one sequence)."""
    lengths = np.diff(np.append(starts, rows))
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + size]
        first += size


class Window(NamedTuple):
    """Sequences that are sorted by length together."""

    stop: int  # the row after its last
    groups: list[np.ndarray]  # of numbers of sequences in the shard


def windows(shard: Shard, batch_tokens: int) -> Iterator[Window]:
    """The shard's sequences in windows of about WINDOW tokens, in the shard's order, each in batches as of ``length_batches``."""
    starts, stops = shard.sequence_bounds()
    for part in np.split(np.arange(len(starts)), np.flatnonzero(np.diff(starts // WINDOW)) + 1):
        first, stop = part[0], int(stops[part[-1]])
        groups = length_batches(starts[part] - starts[first], stop - starts[first], batch_tokens)
        yield Window(stop, [first + group for group in groups])


class Batch(NamedTuple):
    """Some sequences, padded on the right."""

    ids: Tensor  # (sequence, position) int64
    places: Tensor  # of real tokens in it, flat, in the order of ``rows``
    rows: np.ndarray  # of these tokens in the shard, ascending


def batch_of(shard: Shard, starts: np.ndarray, lengths: np.ndarray) -> Batch:
    """The sequences that start in rows ``starts`` and have these ``lengths``."""
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
    """Write the output of block ``layer`` for every token of the shard, as a cache.

    Memory holds about WINDOW tokens, (WINDOW, d_model) bfloat16. Raises UserError for NaN or infinite activations.
    """
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
            waiting.append(
                storing.submit(_check, shard, layer, window.stop, bad)
            )  # runs when all of them were stored
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
