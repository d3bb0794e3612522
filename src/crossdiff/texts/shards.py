"""Token shards: files with a fixed number of tokens each. ``texts.tokenising`` makes them.

Rules that read shards import this module alone, so that their results stay when the reading of texts changes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, record_mark

if TYPE_CHECKING:
    from crossdiff.texts.chats import Sequence

COLUMNS = ("token", "document", "position", "role", "template")


class Shard(NamedTuple):
    """The tokens of a shard, as arrays (tokens,). A sequence starts wherever ``position`` is 0."""

    token: np.ndarray  # int32
    document: np.ndarray  # int64, a hash of the text: equal texts share it
    position: np.ndarray  # int32, from 0 in each sequence
    role: np.ndarray  # int8, see texts.chats
    template: np.ndarray  # int8, see texts.chats

    @classmethod
    def of(cls, sequences: list[tuple[int, "Sequence"]]) -> "Shard":
        """A shard of (document id, sequence), one after the other."""
        lengths = np.array([len(sequence.token) for _, sequence in sequences])
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(
            token=np.concatenate([sequence.token for _, sequence in sequences]),
            document=np.repeat(np.array([document for document, _ in sequences], np.int64), lengths),
            position=(np.arange(len(starts)) - starts).astype(np.int32),
            role=np.concatenate([sequence.role for _, sequence in sequences]),
            template=np.concatenate([sequence.template for _, sequence in sequences]),
        )

    def sequence_starts(self) -> np.ndarray:
        """Row of the first token of every sequence, (sequences,)."""
        return np.flatnonzero(self.position == 0)

    def sequence_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """For every sequence the row of its first token and the row after its last, both (sequences,)."""
        starts = self.sequence_starts()
        return starts, np.append(starts[1:], len(self.token))


def _not_a_shard(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a whole token shard ({first_line(error)})")


def read_shard(path: str | Path) -> Shard:
    """Read a token shard. Raises UserError for a file that is truncated or no token shard."""
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise _not_a_shard(path, error) from error
    # The columns are copied, because torch warns of read-only arrays.
    return Shard(*(np.array(table[column].to_numpy()) for column in COLUMNS))


def write_shard(path: str | Path, shard: Shard) -> None:
    """Write a token shard.

    A file that already holds the same is left as it is, with the id of its first record. So what was made
    from a shard stays when a text of another shard changes.
    """
    table = pa.table(shard._asdict())
    if Path(path).exists() and _holds(path, table):
        return
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(record_mark()), temporary, compression="zstd")


def _holds(path: str | Path, table: pa.Table) -> bool:
    """Whether a file holds the same columns and rows. Reading them is faster than writing the table."""
    try:
        return bool(pq.read_table(path).equals(table))
    except (OSError, pa.ArrowException):
        return False  # a damaged file is replaced
