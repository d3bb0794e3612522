"""Compare the codecs for a cache's chunks, and one thread with several.

.venv/bin/python benchmarks/cache.py CACHE.h5 [--json] [--threads N]

CACHE is a cache of a run: results/activations/{model}/layer{layer}/{tokenizer}/*/0000.h5. Its values are
written and read again. The first table uses one thread: "here" is what Crossdiff writes, outside HDF5. The
other codecs are filters inside HDF5, in a file in memory. The second table writes and reads whole caches
with 1 to N threads.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import torch
from torch import Tensor
from turns import in_turn, show

from crossdiff.activations.cache import CHUNK_ROWS, cache_writer, read_header, read_rows
from crossdiff.activations.chunks import decode, encode

CHUNKS = 12  # in the first table
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "none, fletcher32": {"fletcher32": True},
    "shuffle, zstd 3, fletcher32 (before)": {
        "shuffle": True,
        "fletcher32": True,
        "compression": hdf5plugin.Zstd(clevel=3),
    },
    "shuffle, zstd 1, fletcher32": {
        "shuffle": True,
        "fletcher32": True,
        "compression": hdf5plugin.Zstd(clevel=1),
    },
    "shuffle, gzip 1, fletcher32": {
        "shuffle": True,
        "fletcher32": True,
        "compression": "gzip",
        "compression_opts": 1,
    },
    "bitshuffle, lz4": {"compression": hdf5plugin.Bitshuffle(cname="lz4")},
    "bitshuffle, zstd 1": {"compression": hdf5plugin.Bitshuffle(cname="zstd", clevel=1)},
    "Blosc, shuffle, zstd 1": {"compression": hdf5plugin.Blosc(cname="zstd", clevel=1)},
    "Blosc2, shuffle, zstd 1": {"compression": hdf5plugin.Blosc2(cname="zstd", clevel=1)},
    "Blosc2, shuffle, zstd 3": {"compression": hdf5plugin.Blosc2(cname="zstd", clevel=3)},
    "Blosc2, bitshuffle, lz4 5": {
        "compression": hdf5plugin.Blosc2(cname="lz4", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    },
}


class InHDF5:
    """A data set in memory, with filters that HDF5 applies."""

    def __init__(self, values: np.ndarray, filters: Mapping[str, Any]) -> None:
        self.values, self.filters = values, filters
        self.file = h5py.File(f"in memory {id(self)}", "w", driver="core", backing_store=False)
        self.write()

    def write(self) -> None:
        if "values" in self.file:
            del self.file["values"]  # so that its memory is used again
        chunks = (CHUNK_ROWS, self.values.shape[1])
        self.stored = self.file.create_dataset(
            "values", self.values.shape, np.uint16, chunks=chunks, **self.filters
        )
        for start in range(0, len(self.values), CHUNK_ROWS):
            self.stored[start : start + CHUNK_ROWS] = self.values[start : start + CHUNK_ROWS]

    def read(self) -> None:
        for start in range(0, len(self.values), CHUNK_ROWS):
            self.stored[start : start + CHUNK_ROWS]

    def size(self) -> int:
        return self.stored.id.get_storage_size()


class Here:
    """The same data set, written by Crossdiff's own code."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.out = np.empty((CHUNK_ROWS, values.shape[1]), np.uint16)
        self.write()

    def write(self) -> None:
        self.stored = [
            encode(self.values[start : start + CHUNK_ROWS])
            for start in range(0, len(self.values), CHUNK_ROWS)
        ]

    def read(self) -> None:
        for chunk in self.stored:
            decode(chunk, self.out.shape, 0, self.out)

    def size(self) -> int:
        return sum(map(len, self.stored))


def codecs(values: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Give a row per codec: bytes on disk over bytes in memory, and MB of values per second of one thread."""
    tried: dict[str, InHDF5 | Here] = {name: InHDF5(values, filters) for name, filters in FILTERS.items()}
    tried["here: shuffle, zstd without search, XXH64"] = Here(values)
    things = {
        (name, what): getattr(codec, what) for name, codec in tried.items() for what in ("write", "read")
    }
    seconds = in_turn(things, rounds)
    return [
        {
            "codec, one thread": name,
            "ratio": codec.size() / values.nbytes,
            "write MB/s": values.nbytes / seconds[name, "write"] / 1e6,
            "read MB/s": values.nbytes / seconds[name, "read"] / 1e6,
        }
        for name, codec in tried.items()
    ]


def on_cores(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """Run ``work`` on that many of the processor's cores, its own thread counted."""
    every = os.sched_getaffinity(0)

    def limited() -> None:
        # Threads that start from here on are limited, too.
        os.sched_setaffinity(0, set(sorted(every)[:number]))
        torch.set_num_threads(number)
        try:
            work()
        finally:
            os.sched_setaffinity(0, every)

    return limited


def whole_caches(values: Tensor, counts: list[int], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Write and read whole caches; give a row per number of threads."""
    ids, names, starts = np.zeros(len(values), np.int32), itertools.count(), range(0, len(values), CHUNK_ROWS)

    def write() -> None:
        path = folder / f"{next(names)}.h5"
        with cache_writer(path, *values.shape, 0, ids) as writer:
            for start in starts:
                stop = min(start + CHUNK_ROWS, len(values))
                writer.write(np.arange(start, stop), values[start:stop])
        path.unlink()

    with cache_writer(folder / "whole.h5", *values.shape, 0, ids) as writer:
        writer.write(np.arange(len(values)), values)

    def read(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            read_all = pool.map(
                lambda start: len(read_rows(folder / "whole.h5", start, start + CHUNK_ROWS)), starts
            )
            assert sum(read_all) == len(values)

    things = {("write", count): on_cores(count, write) for count in counts}
    things |= {("read", count): on_cores(count, lambda count=count: read(count)) for count in counts}
    seconds = in_turn(things, rounds)
    size = values.numel() * 2
    return [
        {
            "threads": count,
            "write MB/s": size / seconds["write", count] / 1e6,
            "over one": seconds["write", counts[0]] / seconds["write", count],
            "read MB/s": size / seconds["read", count] / 1e6,
            "read, over one": seconds["read", counts[0]] / seconds["read", count],
        }
        for count in counts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    values = read_rows(arguments.cache, 0, read_header(arguments.cache).rows)
    torch.set_num_threads(1)
    show(codecs(values[: CHUNKS * CHUNK_ROWS].view(torch.uint16).numpy(), arguments.rounds), arguments.json)
    counts = [count for count in (1, 2, 4, 8, 16, 32) if count <= arguments.threads]
    with tempfile.TemporaryDirectory() as folder:
        show(whole_caches(values, counts, Path(folder), arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
