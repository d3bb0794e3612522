"""Pools of token pairs: tokens that are shuffled together, which threads read ahead of a training.

The pools are on the GPU if they fit there, else in main memory.
"""

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.cache import CHUNK_ROWS
from crossdiff.config import MODELS
from crossdiff.device import is_synchronous, usable_memory

log = logging.getLogger(__name__)

READERS = 16  # threads at most. More would wait for the file system or for Python.
AHEAD = 2  # batches that are copied to the GPU before they are asked for
FILLED = 0.95  # share of a GPU's memory that is planned. Libraries and gaps take the rest.


class Piece(NamedTuple):
    """Rows of one chunk that are read together."""

    shard: int  # the shard's number
    start: int  # the chunk's first row in the shard
    rows: np.ndarray  # (n,) the rows to read, counted from ``start``, ascending


class Pool(NamedTuple):
    """Tokens that are read and shuffled together."""

    pieces: list[Piece]
    order: np.ndarray  # (rows,) the order in which batches take the rows of all pieces

    def part(self, rows: np.ndarray) -> "Pool":
        """Return the pool with only ``rows`` (n,), which are entries of ``order``."""
        wanted = np.zeros(sum(len(piece.rows) for piece in self.pieces), bool)
        wanted[rows] = True
        place = np.cumsum(wanted) - 1
        pieces, end = [], 0
        for piece in self.pieces:
            start, end = end, end + len(piece.rows)
            if (here := wanted[start:end]).any():
                pieces.append(piece._replace(rows=piece.rows[here]))
        return Pool(pieces, place[rows])


def plan(
    kept: Sequence[np.ndarray], batch: int, size: int, seed: int, start: int, share: tuple[int, int]
) -> Iterator[Pool]:
    """Yield pools of ``size`` tokens without end, leaving out the first ``start`` batches.

    ``size`` is a multiple of ``batch``. The last pool of an epoch may be smaller. ``kept`` has one (rows,)
    bool per shard. ``share`` is (rank, ranks): the ranks divide each batch into equal parts, in order.
    """
    chunks = [(i, first) for i, rows in enumerate(kept) for first in range(0, len(rows), CHUNK_ROWS)]
    counts = np.array([np.count_nonzero(kept[i][first : first + CHUNK_ROWS]) for i, first in chunks])
    rank, ranks = share
    for epoch in itertools.count():
        generator = np.random.default_rng([seed, epoch])
        permuted = generator.permutation(len(chunks))
        ends = np.cumsum(counts[permuted])
        usable = ends[-1] - ends[-1] % batch
        for begin in range(0, usable, size):
            end = min(begin + size, usable)
            order = generator.permutation(end - begin)
            skipped = min(start, len(order) // batch)
            start -= skipped
            batches = order.reshape(-1, batch)[skipped:]
            if not len(batches):
                continue
            pieces = []
            for place in range(np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end) + 1):
                i, first = chunks[permuted[place]]
                before = ends[place] - counts[permuted[place]]
                rows = np.flatnonzero(kept[i][first : first + CHUNK_ROWS])
                pieces.append(Piece(i, first, rows[max(0, begin - before) : end - before]))
            pool, mine = Pool(pieces, order), np.array_split(batches, ranks, axis=1)[rank].reshape(-1)
            yield pool if len(mine) == len(order) else pool.part(mine)


# Reads a piece into (rows, model, d_model), bfloat16 in main memory.
Read = Callable[[Piece, Tensor], None]


class InMainMemory:
    """Two pools in main memory. Rows are read directly to their place."""

    def __init__(self, rows: int, d_model: int, read: Read, readers: int, pinned: bool) -> None:
        self.pools = [torch.empty(rows, len(MODELS), d_model, dtype=torch.bfloat16) for _ in range(2)]
        self.read, self.readers, self.pinned = read, readers, pinned
        self.stopped = threading.Event()  # set when reading must stop

    def begin(self) -> None:
        """Prepare to overwrite a pool. The thread that gathered from the pool calls this."""

    def write(self, number: int, start: int, piece: Piece, reader: int) -> None:
        """Read a piece into pool ``number`` from row ``start`` on. ``reader`` is the number of the thread."""
        self.read(piece, self.pools[number][start : start + len(piece.rows)])

    def ordered(self, number: int, order: np.ndarray) -> Tensor:
        """Return the ``order`` (rows,) of pool ``number`` as indices for ``gather``."""
        return torch.from_numpy(order)

    def gather(self, number: int, rows: Tensor) -> Tensor:
        """Copy the rows ``rows`` (n,) of pool ``number`` into a new tensor (n, model, d_model)."""
        pool = self.pools[number]
        batch = torch.empty(len(rows), *pool.shape[1:], dtype=pool.dtype, pin_memory=self.pinned)
        return torch.index_select(pool, 0, rows, out=batch)


class OnGPU:
    """Two pools on a GPU, with the same methods as ``InMainMemory``.

    Each thread reads into its own pinned memory, copies from there on a stream separate from the training's,
    and waits for the copy. So a pool is complete for every stream once its threads have ended.

    Before a pool is overwritten, the copies wait for all work that is queued on the training's stream. That
    work includes the last gather from the pool.
    """

    def __init__(self, rows: int, d_model: int, read: Read, readers: int, device: torch.device) -> None:
        shape = (len(MODELS), d_model)
        self.pools = [torch.empty(rows, *shape, dtype=torch.bfloat16, device=device) for _ in range(2)]
        self.orders = [torch.empty(rows, dtype=torch.long, device=device) for _ in range(2)]
        self.staging = [
            torch.empty(CHUNK_ROWS, *shape, dtype=torch.bfloat16, pin_memory=True) for _ in range(readers)
        ]
        self.read, self.readers, self.stream = read, readers, torch.cuda.Stream(device)
        self.stopped = threading.Event()

    def begin(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))

    def write(self, number: int, start: int, piece: Piece, reader: int) -> None:
        staging = self.staging[reader][: len(piece.rows)]
        self.read(piece, staging)
        self._copy(staging, self.pools[number][start : start + len(piece.rows)])

    def ordered(self, number: int, order: np.ndarray) -> Tensor:
        indices = self.orders[number][: len(order)]
        with torch.cuda.device(self.stream.device):
            self._copy(torch.from_numpy(order).pin_memory(), indices)
        return indices

    def gather(self, number: int, rows: Tensor) -> Tensor:
        return self.pools[number].index_select(0, rows)

    def _copy(self, pinned: Tensor, to: Tensor) -> None:
        with torch.cuda.stream(self.stream):
            to.copy_(pinned, non_blocking=True)
            copied = self.stream.record_event(torch.cuda.Event(blocking=True))
        copied.synchronize()


class _Filling:
    """Pool ``number`` while threads fill it with the next pool of ``plans``.

    The first thread plans, starts the others and reads like them. The threads end when everything is read,
    one of them fails, reading is stopped, or the process ends.
    """

    def __init__(self, plans: Iterator[Pool], memory: InMainMemory | OnGPU, number: int) -> None:
        self.plans, self.memory, self.number = plans, memory, number
        self.left: deque[tuple[int, Piece]] = deque()
        self.error: Exception | None = None
        memory.begin()
        self.first = threading.Thread(target=self._plan_and_read, name="pool")
        self.first.start()

    def _plan_and_read(self) -> None:
        try:
            pool = next(self.plans)
            starts = np.cumsum([0, *(len(piece.rows) for piece in pool.pieces)]).tolist()
            self.left.extend(zip(starts, pool.pieces, strict=False))
            others = [
                threading.Thread(target=self._read, args=(reader,), name=f"pool-{reader}")
                for reader in range(1, min(self.memory.readers, len(pool.pieces)))
            ]
            for thread in others:
                thread.start()
            self._read(0)
            for thread in others:
                thread.join()
            self.order = self.memory.ordered(self.number, pool.order)
        except Exception as error:
            self._fail(error)

    def _read(self, reader: int) -> None:
        try:
            while self.left and not self.memory.stopped.is_set() and threading.main_thread().is_alive():
                try:
                    start, piece = self.left.popleft()
                except IndexError:  # another thread took the last one
                    return
                self.memory.write(self.number, start, piece, reader)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.memory.stopped.set()

    def check(self) -> None:
        """Raise the error of a thread, if there is one."""
        if self.error is not None:
            raise self.error

    def wait(self) -> Tensor:
        """Wait until the pool is filled. Gives the order (rows,) in which its rows are used."""
        self.first.join()
        self.check()
        return self.order


def batches(plans: Iterator[Pool], memory: InMainMemory | OnGPU, batch: int) -> Generator[Tensor, None, None]:
    """Yield batches (batch, model, d_model) of one pool after another. The next pool is filled meanwhile."""
    filling = _Filling(plans, memory, 0)
    try:
        for used in itertools.cycle((0, 1)):
            order = filling.wait()
            filling = _Filling(plans, memory, 1 - used)
            for rows in order.split(batch):
                filling.check()
                yield memory.gather(used, rows)
    finally:
        memory.stopped.set()  # each thread finishes its current piece
        filling.first.join()


def copied(
    plans: Iterator[Pool], memory: InMainMemory, batch: int, device: torch.device
) -> Generator[Tensor, None, None]:
    """Yield the same batches on a GPU, from pools in main memory.

    A thread gathers each batch into pinned memory and copies it on a stream separate from the training's.
    """
    stream, pinned = torch.cuda.Stream(device), batches(plans, memory, batch)

    def copy() -> tuple[Tensor, torch.cuda.Event]:
        # PyTorch uses a pinned batch's memory again only after the copy.
        with torch.cuda.stream(stream):
            return next(pinned).to(device, non_blocking=True), stream.record_event()

    copier = ThreadPoolExecutor(max_workers=1)
    coming = deque(copier.submit(copy) for _ in range(AHEAD))
    try:
        while True:
            rows, arrived = coming.popleft().result()
            coming.append(copier.submit(copy))
            training = torch.cuda.current_stream(device)
            training.wait_event(arrived)
            rows.record_stream(training)
            yield rows
    finally:
        memory.stopped.set()  # the copier may wait for a pool
        copier.shutdown(cancel_futures=True)
        pinned.close()


def read_ahead(
    plans: Iterator[Pool],
    batch: int,
    rows: int,
    d_model: int,
    read: Read,
    device: torch.device,
    reserved: float,
    processes: int,
) -> Generator[Tensor, None, None]:
    """Yield batches (batch, model, d_model) of the pools on ``device``.

    A pool has at most ``rows`` rows. ``processes`` processes share the cores of this machine. A GPU holds the
    pools if two of them fit in addition to ``reserved``, the bytes that the training takes. Else main memory
    holds them.
    """
    if is_synchronous(device):  # one thread reads, because the training needs the cores
        return batches(plans, InMainMemory(rows, d_model, read, 1, pinned=False), batch)
    readers = max(1, min(READERS, len(os.sched_getaffinity(0)) // processes))
    row, usable = 2 * len(MODELS) * d_model, FILLED * usable_memory(device)
    fit = max(0, int((usable - reserved) / (2 * (row + 8))))  # each row also needs an index of 8 bytes
    where = "on the GPU" if rows <= fit else f"in main memory, the GPU has room for two of {fit:,}"
    size = f"{rows:,} token pairs, {rows * row / 1e9:.1f} GB each"
    log.info("two pools of %s, are %s; %d threads read them", size, where, readers)
    if rows <= fit:
        return batches(plans, OnGPU(rows, d_model, read, readers, device), batch)
    return copied(plans, InMainMemory(rows, d_model, read, readers, pinned=True), batch, device)
