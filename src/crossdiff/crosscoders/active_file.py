"""The file of active entries: a crosscoder's activations on every kept token of a split.

They are encoded once, and all later steps read the file. It is Parquet with one row per token, in order: the
number of the token's shard, its row there, the latents that are active on it, and their activations, exactly
as they were computed. Pages have checksums.

A row group holds whole sequences of one shard with about ENTRIES_AT_ONCE entries. So readers need little
memory. This module does not import torch, because most readers do not need it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, record_mark
from crossdiff.texts.shards import Shard

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # the shard's number
        ("row", pa.int64()),  # the token's row in the shard
        ("latents", pa.list_(pa.int32())),  # the active latents, ascending
        ("activations", pa.list_(pa.float32())),  # their activations f
    ]
)
ENTRIES_AT_ONCE = 4_000_000
ROW_BITS = 40  # of a position: the number of the row, below that of the shard
# On the default run an entry takes 4.8 bytes instead of 8, and one core writes 35 million entries per second.
LAYOUT = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": {
        "latents.list.element": "DELTA_BINARY_PACKED",
        "activations.list.element": "BYTE_STREAM_SPLIT",
    },
    "write_page_checksum": True,
}


class ActiveTokens(NamedTuple):
    """The active entries of some whole sequences of one shard, token by token."""

    shard: int  # the shard's number
    rows: np.ndarray  # (tokens,) int64: the kept rows, in order
    bounds: np.ndarray  # (tokens + 1,) int64: entries bounds[i] to bounds[i + 1] belong to token i
    latent: np.ndarray  # (entries,) int32
    value: np.ndarray  # (entries,) float32

    def first(self, tokens: int) -> "ActiveTokens":
        """Return the entries of the first ``tokens`` tokens."""
        end = self.bounds[tokens]
        return self._replace(
            rows=self.rows[:tokens],
            bounds=self.bounds[: tokens + 1],
            latent=self.latent[:end],
            value=self.value[:end],
        )


class ActiveWriter:
    """Takes tokens in order and writes them in row groups of whole sequences.

    A thread writes a row group while the next one is collected.
    """

    def __init__(self, file: pq.ParquetWriter, pool: ThreadPoolExecutor, shards: Sequence[Shard]) -> None:
        self.file, self.pool = file, pool
        self.starts = [shard.sequence_starts() for shard in shards]
        self.shard, self.size = 0, 0
        self.waiting: list[tuple[np.ndarray, ...]] = []  # rows, numbers of entries, latents, values
        self.written: Future | None = None

    def add(
        self, shard: int, rows: np.ndarray, counts: np.ndarray, latent: np.ndarray, value: np.ndarray
    ) -> None:
        """Take the tokens in ``rows`` (tokens,) of a shard.

        They have ``counts`` (tokens,) entries with ``latent`` and ``value`` (entries,).
        """
        if shard != self.shard:
            self.flush()
            self.shard = shard
        self.waiting.append((rows, counts, latent, value))
        self.size += len(rows) + len(latent)
        if self.size >= ENTRIES_AT_ONCE:
            # The last sequence stays, because it may go on.
            starts = self.starts[shard]
            self.flush(before=int(starts[np.searchsorted(starts, rows[-1], side="right") - 1]))

    def flush(self, before: int | None = None) -> None:
        """Write all waiting tokens, or only those in rows below ``before``."""
        if not self.waiting:
            return
        rows, counts, latent, value = map(np.concatenate, zip(*self.waiting, strict=True))
        tokens = len(rows) if before is None else int(np.searchsorted(rows, before))
        bounds = np.append(0, np.cumsum(counts))
        end = bounds[tokens]
        rest = (rows[tokens:], counts[tokens:], latent[end:], value[end:])
        self.waiting, self.size = ([rest], len(rest[0]) + len(rest[2])) if len(rest[0]) else ([], 0)
        if not tokens:
            return
        offsets = bounds[: tokens + 1].astype(np.int32)
        columns = {
            "shard": np.full(tokens, self.shard, np.int32),
            "row": rows[:tokens],
            "latents": pa.ListArray.from_arrays(offsets, latent[:end]),
            "activations": pa.ListArray.from_arrays(offsets, value[:end]),
        }
        self.wait()
        batch = pa.RecordBatch.from_pydict(columns, SCHEMA)
        self.written = self.pool.submit(self.file.write_batch, batch, row_group_size=tokens)

    def wait(self) -> None:
        """Wait until the last row group is written. Raises its error if it failed."""
        if self.written:
            self.written.result()


@contextmanager
def active_writer(path: str | Path, shards: Sequence[Shard]) -> Iterator[ActiveWriter]:
    """Give a writer for the tokens of ``shards``. The file ``path`` appears once all is written."""
    schema = SCHEMA.with_metadata(record_mark())
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, **LAYOUT) as file,
        ThreadPoolExecutor(1) as pool,
    ):
        writer = ActiveWriter(file, pool, shards)
        yield writer
        writer.flush()
        writer.wait()


class ActiveFile:
    """Reads a file of active entries, one row group after another.

    Raises UserError if the file is foreign, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            self.file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not a whole Parquet file ({first_line(error)})") from error
        found = self.file.schema_arrow
        if not found.equals(SCHEMA):
            raise UserError(
                f"{path}: not a file of active entries (columns {found.names}, allowed: {SCHEMA.names})"
            )
        self.groups = self.file.num_row_groups
        self.tokens: int = self.file.metadata.num_rows  # kept tokens

    def shard(self, group: int) -> int:
        """Return the number of the shard of row group ``group``. Only metadata is read."""
        return self.file.metadata.row_group(group).column(0).statistics.min

    def positions(self) -> np.ndarray:
        """Return a number for every kept token, (tokens,) int64, in increasing order.

        Two files of the same token shards have one number for one token. Raises UserError if it is damaged.
        """
        try:
            table = self.file.read(columns=["shard", "row"])
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.path}: damaged ({first_line(error)})") from error
        return (table["shard"].to_numpy().astype(np.int64) << ROW_BITS) + table["row"].to_numpy()

    def read(self, group: int) -> ActiveTokens:
        """Read row group ``group``. Raises UserError if it is damaged."""
        try:
            table = self.file.read_row_group(group).combine_chunks()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.path}: row group {group} is damaged ({first_line(error)})") from error
        row, latents, values = (table[name].chunk(0) for name in ("row", "latents", "activations"))
        return ActiveTokens(
            shard=self.shard(group),
            rows=row.to_numpy(),
            bounds=latents.offsets.to_numpy().astype(np.int64),
            latent=latents.values.to_numpy(),
            value=values.values.to_numpy(),
        )

    def __iter__(self) -> Iterator[ActiveTokens]:
        return map(self.read, range(self.groups))
