"""Activations of both models that are computed when a training needs them, and stored nowhere.

In every epoch the sequences of all training shards get a random order. The order is cut into pools. Both
models run over the sequences of a pool, and the tokens that count are shuffled within it. The next pool takes
its place.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.harvest import Batch, batch_of, length_batches
from crossdiff.activations.pairs import Summary, moments
from crossdiff.activations.pools import FILLED
from crossdiff.config import MODELS, POOLS
from crossdiff.device import to_device, usable_memory
from crossdiff.errors import UserError
from crossdiff.models.forward import run_to_layer
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.replacements import check_ids
from crossdiff.texts.shards import read_shard

log = logging.getLogger(__name__)

AHEAD = 2  # batches that the models may compute before they are stored
EPOCHS, WITHIN = 0, 1  # seeds of the orders. They do not depend on the trainings, which share the pools.


class Pool(NamedTuple):
    """Token pairs that are shuffled together. The next pool overwrites them."""

    activations: Tensor  # (rows, model, d_model) bfloat16
    rows: np.ndarray  # (rows,) rows of the tokens, counted over all shards
    order: Tensor  # (rows,) the order in which trainings use the rows
    is_rest: bool  # whether it holds what is left of an epoch
    device: torch.device  # of the batches

    def batches(self, batch: int, first: int) -> Iterator[Tensor]:
        """Yield batches (batch, model, d_model) from number ``first`` on.

        The last rows that do not fill a batch are left out. Other ones are in the next epoch.
        """
        for number in range(first, len(self.order) // batch):
            rows = self.order[number * batch : (number + 1) * batch]
            yield to_device(self.activations.index_select(0, rows), self.device)


class LiveActivations:
    """Both models, and the training tokens that they run over, at the layer of a ``summary``.

    ``models`` are base and chat. Batches have ``batch_tokens`` tokens, padding included, and pools are on
    ``device`` if they fit. Raises UserError for tokens that a model can't read.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        shards: Sequence[str | Path],
        summary: Summary,
        batch_tokens: int,
        device: torch.device,
    ) -> None:
        self.models, self.summary, self.batch_tokens, self.device = models, summary, batch_tokens, device
        self.layer, self.d_model = summary.layer, len(summary.mean[0])
        read = [read_shard(path) for path in shards]
        self.token = np.concatenate([shard.token for shard in read])
        self.position = np.concatenate([shard.position for shard in read])
        self.starts = np.flatnonzero(self.position == 0)
        self.lengths = np.diff(np.append(self.starts, len(self.token)))
        for model in models:
            check_ids(model, self.token)
        # Tokens of each sequence that count, if their norms are not too large.
        self.late = np.maximum(self.lengths - summary.skip_first, 0)
        self.runners = _runners(models)
        # Bytes of the device that the models take.
        self.taken = 0 if device.type == "cpu" else torch.cuda.memory_allocated(device)

    @property
    def tokens(self) -> int:
        """The number of training tokens that count, if their norms are not too large."""
        return int(self.late.sum())

    def measure(self, statistics_tokens: int) -> None:
        """Take mean and scale from ``statistics_tokens`` training tokens, if the summary's sample has fewer.

        They are the first ones of the first epoch, up to the end of a sequence. Raises UserError for NaN or
        infinite activations.
        """
        if self.summary.tokens >= min(statistics_tokens, self.tokens):
            return
        order = _epoch(0, len(self.starts))
        ends = np.cumsum(self.late[order])
        few = order[: int(np.searchsorted(ends, statistics_tokens)) + 1]
        tokens = int(self.lengths[few].sum())
        log.info("mean and scale are measured on %s tokens", f"{tokens:,}")
        blocks = (
            torch.stack([of_model.index_select(0, places.to(of_model.device)) for of_model in values], dim=1)
            for _, places, values in self._counted(few)
        )
        mean, rms = moments(blocks, tokens)
        self.summary = self.summary._replace(mean=mean.tolist(), rms=rms.tolist())

    def size(self, buffer_tokens: int) -> int:
        """Return the most rows of a pool."""
        return min(buffer_tokens, self.tokens // POOLS)

    def sequences(self, size: int) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield the sequences of each pool of at most ``size`` tokens, and whether it ends an epoch.

        Raises UserError if a sequence is longer than a pool.
        """
        if (longest := int(self.late.max())) > size:
            raise UserError(
                f"activations.store: none: a pool has {size:,} tokens, and a sequence has {longest:,}; "
                "raise the tokens of datasets or buffer_tokens, lower tokens.context, or use store: all"
            )
        for epoch in itertools.count():
            order = _epoch(epoch, len(self.starts))
            ends, begin = np.cumsum(self.late[order]), 0
            while begin < len(order):
                before = ends[begin - 1] if begin else 0
                end = int(np.searchsorted(ends, before + size, side="right"))
                yield order[begin:end], end == len(order)
                begin = end

    def pools(
        self,
        buffer_tokens: int,
        first: int = 0,
        reserved: float = 0,
        after_batch: Callable[[], None] = lambda: None,
    ) -> Iterator[Pool]:
        """Yield pools without end, beginning with number ``first``.

        A pool's number alone decides what it holds. ``reserved`` are the bytes that trainings take of the
        device. ``after_batch`` is called whenever both models have run over a batch. Raises UserError for NaN
        or infinite activations.
        """
        size = self.size(buffer_tokens)
        memory = self._memory(size, reserved)
        for number, (sequences, is_rest) in enumerate(self.sequences(size)):
            if number < first:
                continue
            rows = self._fill(memory, sequences, after_batch)
            order = np.random.default_rng([WITHIN, number]).permutation(len(rows))
            where = torch.from_numpy(order).to(memory.device)
            yield Pool(memory[: len(rows)], rows, where, is_rest, self.device)

    def _memory(self, size: int, reserved: float) -> Tensor:
        row = 2 * len(MODELS) * self.d_model
        fits = size * row <= FILLED * usable_memory(self.device) - self.taken - reserved
        where = self.device if fits else torch.device("cpu")
        log.info("a pool of %s token pairs, %.1f GB, on %s", f"{size:,}", size * row / 1e9, where)
        return torch.empty(size, len(MODELS), self.d_model, dtype=torch.bfloat16, device=where)

    def _fill(self, memory: Tensor, sequences: np.ndarray, after_batch: Callable[[], None]) -> np.ndarray:
        """Run both models over the sequences. Returns the rows of the tokens that count, as they stand."""
        found, end = [], 0
        for rows, places, values in self._counted(sequences):
            there = places.to(memory.device)
            for model, of_model in enumerate(values):
                memory[end : end + len(rows), model] = of_model.to(memory.device).index_select(0, there)
            found.append(rows)
            end += len(rows)
            after_batch()
        return np.concatenate(found)

    def _counted(self, sequences: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, list[Tensor]]]:
        """Yield for each batch the rows of the tokens that count (n,), and their places (n,) in the batch.

        With them come each model's activations (tokens, d_model) of the whole batch.
        """
        for batch, values, norms in self._computed(sequences):
            if not norms.isfinite().all():
                row = int(batch.rows[int((~norms.isfinite().all(dim=0)).nonzero()[0])])
                raise UserError(
                    f"training token {row:,} has NaN or infinite activations at layer {self.layer}"
                )
            kept = self.summary.counts(self.position[batch.rows], norms.cpu().numpy())
            yield batch.rows[kept], torch.from_numpy(np.flatnonzero(kept)), values

    def _computed(self, sequences: np.ndarray) -> Iterator[tuple[Batch, list[Tensor], Tensor]]:
        """Yield batches, each model's activations (tokens, d_model), and all norms (model, tokens).

        The models compute some batches ahead.
        """
        starts, lengths = self.starts[sequences], self.lengths[sequences]
        waiting: deque[tuple[Batch, list[Future[tuple[Tensor, Tensor]]]]] = deque()
        for group in length_batches(lengths, self.batch_tokens):
            batch = batch_of(self.token, starts[group], lengths[group])
            runs = zip(self.runners, self.models, strict=True)
            waiting.append((batch, [one.submit(self._run, model, *batch[:2]) for one, model in runs]))
            if len(waiting) > AHEAD:
                yield _all_of(*waiting.popleft())
        yield from itertools.starmap(_all_of, waiting)

    def _run(self, model: PreTrainedModel, ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return one model's activations (tokens, d_model) of a batch, bfloat16, and their norms (tokens,).

        They are on the trainings' device.
        """
        hidden = run_to_layer(model, to_device(ids, device_of_inputs(model)), self.layer)
        values = hidden.flatten(0, 1).index_select(0, to_device(places, hidden.device))
        values = values.to(torch.bfloat16).to(self.device)
        return values, values.float().norm(dim=1)


def _epoch(number: int, sequences: int) -> np.ndarray:
    """The order of the sequences in an epoch."""
    return np.random.default_rng([EPOCHS, number]).permutation(sequences)


def _all_of(
    batch: Batch, computed: Sequence[Future[tuple[Tensor, Tensor]]]
) -> tuple[Batch, list[Tensor], Tensor]:
    values, norms = zip(*(result.result() for result in computed), strict=True)
    return batch, list(values), torch.stack(norms)


def _runners(models: Sequence[PreTrainedModel]) -> list[ThreadPoolExecutor]:
    """For each model the thread that runs it. On a CPU it has its share of the cores.

    Models on one GPU share a thread: two batches at once would need more memory, and save no time.
    """
    first, *others = map(device_of_inputs, models)
    if first.type != "cpu" and first in others:
        return [ThreadPoolExecutor(1)] * len(models)
    threads = torch.get_num_threads()
    runners = [ThreadPoolExecutor(1) for _ in models]
    for runner in runners:
        runner.submit(torch.set_num_threads, max(1, threads // len(models))).result()
    torch.set_num_threads(threads)  # of this thread, whatever the others have set
    return runners
