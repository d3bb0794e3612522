"""Harvest activations: one pass of one model over one token shard, up to the deepest of some layers.

Forward passes, copies to the host, compression and writing run at the same time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.cache import CacheWriter, cache_writer
from crossdiff.device import ToHost, to_device
from crossdiff.errors import UserError
from crossdiff.models.forward import run_to_layers
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.replacements import check_ids
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

# Tokens of a window, whose sequences are sorted by length together. About as many are in memory.
WINDOW = 2**20
# Batches that the device may compute before they are stored. It works on while a window's last chunks are
# written.
AHEAD = 6


def length_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Group sequences of ``lengths`` (sequences,) into batches, and yield each group's sequence numbers.

    The longest come first. A group has at most ``batch_tokens`` tokens, padding included, or it is a single
    sequence.
    """
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
        groups = length_batches((stops - starts)[part], batch_tokens)
        yield Window(int(stops[part[-1]]), [part[0] + group for group in groups])


class Batch(NamedTuple):
    """Some sequences, padded on the right."""

    ids: Tensor  # (sequence, position) int64
    places: Tensor  # (tokens,) where the real tokens stand in the flattened ``ids``, in the order of ``rows``
    rows: np.ndarray  # (tokens,) the rows of these tokens in the shard, ascending


def batch_of(token: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Batch:
    """Make a batch of the sequences that start in rows ``starts`` and have ``lengths``, both (sequence,).

    ``token`` are the ids of all rows.
    """
    position = np.arange(lengths.max())
    real = position < lengths[:, None]
    rows = starts[:, None] + position
    ids = np.zeros(real.shape, np.int64)
    ids[real] = token[rows[real]]
    order = np.argsort(starts)
    places = order[:, None] * len(position) + position
    return Batch(torch.from_numpy(ids), torch.from_numpy(places[real[order]]), rows[order][real[order]])


def harvest_shard(
    model: PreTrainedModel, shard: Shard, caches: Mapping[int, str | Path], batch_tokens: int
) -> None:
    """Write the outputs of some blocks for every token of the shard, each as a cache, from one pass.

    ``caches``: layer -> path of its cache. A cache's bytes do not depend on the other layers. Memory holds
    about (layers, WINDOW, d_model) bfloat16. Raises UserError for NaN or infinite activations, and for a
    token that the model can't read.
    """
    check_ids(model, shard.token)
    starts, stops = shard.sequence_bounds()
    where = device_of_inputs(model)
    total, to_host, layers = len(shard.token), ToHost(where), list(caches)
    d_model = model.config.get_text_config().hidden_size
    waiting: deque[Future] = deque()
    with ExitStack() as files, ThreadPoolExecutor(1) as storing:
        writers = [
            files.enter_context(cache_writer(path, total, d_model, layer, shard.token))
            for layer, path in caches.items()
        ]
        for window in windows(shard, batch_tokens):
            bad: list[Bad] = []
            for group in window.groups:
                batch = batch_of(shard.token, starts[group], (stops - starts)[group])
                ids, places = (to_device(part, where) for part in batch[:2])
                values = [
                    hidden.flatten(0, 1).index_select(0, places).to(torch.bfloat16)
                    for hidden in run_to_layers(model, ids, layers)
                ]
                finite = torch.stack([block.isfinite().all(dim=1) for block in values])
                landing = to_host(finite, *values)
                waiting.append(storing.submit(_store, writers, batch.rows, landing, bad))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
            # The one thread that stores runs this after all batches of the window.
            waiting.append(storing.submit(_check, shard, layers, window.stop, bad))
        for stored in waiting:
            stored.result()


# For each layer, rows whose activations are not finite.
Bad = list[np.ndarray]


def _store(
    writers: list[CacheWriter], rows: np.ndarray, landing: Callable[[], list[Tensor]], bad: list[Bad]
) -> None:
    finite, *values = landing()
    for writer, block in zip(writers, values, strict=True):
        writer.write(rows, block)
    bad.append([rows[~of_layer] for of_layer in finite.numpy()])


def _check(shard: Shard, layers: list[int], stop: int, bad: list[Bad]) -> None:
    log.info("%d of %d tokens", stop, len(shard.token))
    for layer, parts in zip(layers, zip(*bad, strict=True), strict=True):
        rows = np.concatenate(parts)
        if len(rows):
            row = int(rows.min())
            raise UserError(
                f"{len(rows):,} of {stop:,} tokens have NaN or infinite activations at layer {layer}, "
                f"the first in row {row} (document {shard.document[row]}, position {shard.position[row]})"
            )
