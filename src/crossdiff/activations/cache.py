"""The activation cache: one HDF5 file per token shard and model, with one row per token of the shard.

bfloat16 values are stored as their uint16 bit patterns, in chunks of CHUNK_ROWS rows. ``activations.chunks``
makes the bytes of a chunk.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import h5py
import hdf5plugin
import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.chunks import FILTERS, DamagedChunk, decode, encode
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.hashing import stamp
from crossdiff.provenance.removed import removed
from crossdiff.provenance.storage import atomic_path, record_mark

# HDF5 writes a filter's name into the file if the filter is registered. It always is, because hdf5plugin is
# imported here. So equal activations give equal bytes.
REGISTERED = hdf5plugin.FILTERS["zstd"]
FORMAT = "crossdiff activations 1"
CHUNK_ROWS = 2048
ONE_THREAD = 2**15 - 1  # up to so many numbers torch computes in the calling thread alone


def tokens_digest(ids: np.ndarray) -> str:
    """Return the SHA-256 (hex) of a shard's token ids (tokens,).

    Caches with the same digest match row by row.
    """
    return hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()


class CacheWriter:
    """Takes a cache's rows in any order.

    Once all rows of a chunk are there, a thread compresses and writes it. Then the chunk leaves memory.
    """

    def __init__(
        self, file: h5py.File, rows: int, d_model: int, pool: ThreadPoolExecutor, threads: int
    ) -> None:
        self.rows, self.d_model, self.chunk_rows = rows, d_model, min(rows, CHUNK_ROWS)
        self._norm = np.empty(rows, np.float32)
        # From a chunk's number to its rows as far as they are known, int16.
        self._open: dict[int, np.ndarray] = {}
        # Memory of chunks that were written. New memory costs more than a copy into this one.
        self._spare: list[np.ndarray] = []
        self._missing = np.bincount(np.arange(rows) // self.chunk_rows)  # rows that each chunk still lacks
        self._pool, self._most = pool, 2 * threads
        self._written: deque[Future] = deque()
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((self.chunk_rows, d_model))
        plan.set_obj_track_times(False)  # equal activations give equal bytes
        for number, values in FILTERS:
            plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
        space = h5py.h5s.create_simple((rows, d_model))
        self._file = file
        self._stored = h5py.h5d.create(file.id, b"activations", h5py.h5t.NATIVE_UINT16, space, plan)

    def write(self, rows: np.ndarray, block: Tensor) -> None:
        """Take ``block`` (n, d_model), bfloat16 on the CPU, as the rows numbered ``rows`` (n,).

        ``rows`` ascend, and each row is given once. The caller may reuse the block's memory on return. Waits
        while more than two chunks per thread are not written yet.
        """
        # NumPy copies in this thread. torch would start threads of its own, which spin while the cores are
        # busy with chunks.
        values = block.view(torch.int16).numpy()
        chunks, firsts = np.unique(rows // self.chunk_rows, return_index=True)
        for chunk, first, last in zip(chunks.tolist(), firsts, np.append(firsts[1:], len(rows)), strict=True):
            if chunk not in self._open:
                shape = self.chunk_rows, self.d_model
                self._open[chunk] = self._spare.pop() if self._spare else np.empty(shape, np.int16)
            self._open[chunk][rows[first:last] - chunk * self.chunk_rows] = values[first:last]
            self._missing[chunk] -= last - first
            if not self._missing[chunk]:
                if len(self._written) == self._most:
                    self._written.popleft().result()
                before = self._written[-1] if self._written else None
                start, whole = chunk * self.chunk_rows, self._open.pop(chunk)
                self._written.append(self._pool.submit(self._finish, start, whole, before))

    def _finish(self, start: int, values: np.ndarray, before: Future | None) -> None:
        """Write the whole chunk ``values`` that begins at row ``start``.

        Waits for the chunk ``before``, so that the order of chunks in the file does not depend on the
        threads.
        """
        real = values[: self.rows - start]
        values[len(real) :] = 0
        few = max(1, ONE_THREAD // self.d_model)
        norms = [rows.float().norm(dim=1) for rows in torch.from_numpy(real).view(torch.bfloat16).split(few)]
        self._norm[start : start + len(real)] = torch.cat(norms)
        stored = encode(values.view(np.uint16))
        self._spare.append(values)
        if before is not None:
            wait([before])
        self._stored.write_direct_chunk((start, 0), stored)

    def close(self) -> None:
        """Wait for the threads, then write the norms. Raises ValueError if some rows were never given."""
        for written in self._written:
            written.result()
        if self._missing.any():
            raise ValueError(f"{self._missing.sum()} of {self.rows} rows were not given")
        self._file.create_dataset("norm", data=self._norm, fletcher32=True)


@contextmanager
def cache_writer(
    path: str | Path, rows: int, d_model: int, layer: int, ids: np.ndarray
) -> Iterator[CacheWriter]:
    """Give a writer for the cache of the tokens ``ids`` (rows,).

    The cache also gets the L2 norm of each row. The file appears under ``path`` once every row is written.
    """
    threads = torch.get_num_threads()
    with (
        atomic_path(path) as temporary,
        h5py.File(temporary, "w") as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        file.attrs.update(
            format=FORMAT,
            layer=layer,
            d_model=d_model,
            dtype="bfloat16",
            tokens_sha256=tokens_digest(ids),
            **record_mark(path),
        )
        writer = CacheWriter(file, rows, d_model, pool, threads)
        yield writer
        writer.close()


def write_cache(path: str | Path, activations: Tensor, layer: int, ids: np.ndarray) -> None:
    """Write ``activations`` (tokens, d_model), bfloat16, with the L2 norm of each row.

    ``ids`` (tokens,) are the shard's tokens. Raises TypeError if the activations are not bfloat16.
    """
    if activations.dtype != torch.bfloat16:
        raise TypeError(f"activations are {activations.dtype}, not bfloat16")
    rows, d_model = activations.shape
    with cache_writer(path, rows, d_model, layer, ids) as writer:
        for start in range(0, len(activations), CHUNK_ROWS):
            block = activations[start : start + CHUNK_ROWS]
            writer.write(np.arange(start, start + len(block)), block)


class Header(NamedTuple):
    """What a cache says about itself."""

    layer: int
    d_model: int
    rows: int
    tokens_sha256: str
    norm: np.ndarray  # (rows,) float32


def _open(path: str | Path) -> h5py.File:
    if removed(path) is not None:
        told = "removed as configured (activations.keep: false)"
        raise UserError(f"{path}: {told}; the target `activations` makes all caches of a config again")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: not a whole HDF5 file ({first_line(error)})") from error
    found = file.attrs.get("format")
    if found != FORMAT:
        file.close()
        if str(found).startswith(FORMAT.rstrip("0123456789")):
            raise UserError(
                f"{path}: another version of Crossdiff wrote this cache "
                f"(format {found!r}, allowed: {FORMAT!r}); remove it and run again, or use that version"
            )
        raise UserError(f"{path}: not an activation cache (format {found!r}, allowed: {FORMAT!r})")
    return file


def read_header(path: str | Path) -> Header:
    """Read everything but the activations. Raises UserError for a truncated, damaged or foreign file."""
    with _open(path) as file:
        try:
            norms = file["norm"][:]
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(f"{path}: the norms are damaged ({first_line(error)})") from error
        try:
            rows, d_model = file["activations"].shape
            return Header(int(file.attrs["layer"]), d_model, rows, str(file.attrs["tokens_sha256"]), norms)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{path}: parts are missing ({first_line(error)}); remove the file and run again"
            ) from error


class _Layout(NamedTuple):
    """Where the rows of a cache stand in the file."""

    shape: tuple[int, int]  # rows, d_model
    chunk: tuple[int, int]  # rows, d_model
    # From a chunk's number to its offset and size in bytes. None for an older cache, which has HDF5's
    # checksums.
    places: dict[int, tuple[int, int]] | None


@lru_cache(maxsize=1024)
def _layout(path: str | Path, _stamp: str | None) -> _Layout:
    """Find where the rows of a cache stand.

    The result is remembered. ``_stamp`` changes with the file, so that a changed file is read again.
    """
    with _open(path) as file:
        try:
            dataset = file["activations"]
            plan = dataset.id.get_create_plist()
            filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
            if tuple((number, values) for number, _, values, _ in filters) != FILTERS:
                return _Layout(dataset.shape, dataset.chunks, None)
            found: list[h5py.h5d.StoreInfo] = []
            dataset.id.chunk_iter(found.append)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"{path}: the index is damaged ({first_line(error)})") from error
        places = {info.chunk_offset[0] // dataset.chunks[0]: (info.byte_offset, info.size) for info in found}
        return _Layout(dataset.shape, dataset.chunks, places)


def read_rows(path: str | Path, start: int, stop: int) -> Tensor:
    """Read rows ``start`` to ``stop`` (exclusive) as (rows, d_model) bfloat16.

    Several threads may read at the same time. Raises UserError if a checksum is wrong.
    """
    layout = _layout(path, stamp(path))
    start, stop, _ = slice(start, stop).indices(layout.shape[0])
    rows = torch.empty(max(0, stop - start), layout.shape[1], dtype=torch.bfloat16)
    read_into(path, start, rows)
    return rows


def read_into(path: str | Path, start: int, out: Tensor) -> None:
    """Fill ``out`` (rows, d_model) with the rows from ``start`` on.

    ``out`` is bfloat16 on the CPU and may have any strides. Threads and errors are as in ``read_rows``.
    """
    layout, stop = _layout(path, stamp(path)), start + len(out)
    values = out.view(torch.uint16).numpy()
    if layout.places is None:
        _read_by_hdf5(path, start, stop, values)
        return
    rows = layout.chunk[0]
    file = os.open(path, os.O_RDONLY)
    try:
        for chunk in range(start // rows, -(-stop // rows)):
            first, last = max(start, chunk * rows), min(stop, (chunk + 1) * rows)
            try:
                offset, size = layout.places[chunk]
                stored = os.pread(file, size, offset)
                decode(stored, layout.chunk, first - chunk * rows, values[first - start : last - start])
            except (DamagedChunk, KeyError) as error:
                raise UserError(f"{path}: rows {first} to {last} are damaged ({error})") from error
    finally:
        os.close(file)


def _read_by_hdf5(path: str | Path, start: int, stop: int, values: np.ndarray) -> None:
    with _open(path) as file:
        try:
            values[:] = file["activations"][start:stop]
        except OSError as error:
            raise UserError(f"{path}: rows {start} to {stop} are damaged ({first_line(error)})") from error
