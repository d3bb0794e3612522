"""Token shards: files with a fixed number of tokens each, cut from the stream of a data set's texts.

Each shard begins where the shard before it ended. So a larger data set adds shards and changes none.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, record_mark
from crossdiff.texts.chats import Sequence, chat_sequence, document_sequences
from crossdiff.texts.columns import taken
from crossdiff.texts.formats import Text
from crossdiff.texts.sources import read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

COLUMNS = ("token", "document", "position", "role", "template")


class Shard(NamedTuple):
    """The tokens of a shard, as arrays (tokens,). A sequence starts wherever ``position`` is 0."""

    token: np.ndarray  # int32
    document: np.ndarray  # int64, a hash of the text: equal texts share it
    position: np.ndarray  # int32, from 0 in each sequence
    role: np.ndarray  # int8, see texts.chats
    template: np.ndarray  # int8, see texts.chats

    @classmethod
    def of(cls, sequences: list[tuple[int, Sequence]]) -> "Shard":
        """A shard of (document id, sequence), one after the other."""
        documents = [np.full(len(sequence.token), document, np.int64) for document, sequence in sequences]
        positions = [np.arange(len(sequence.token), dtype=np.int32) for _, sequence in sequences]
        return cls(
            token=np.concatenate([sequence.token for _, sequence in sequences]),
            document=np.concatenate(documents),
            position=np.concatenate(positions),
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


def document_id(text: Text) -> int:
    """63 bits of the text's SHA-256, for the split and the document column."""
    content = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(content.encode("utf-8")).digest()[:8], "big") >> 1


def in_split(document: int, split: str, validation_fraction: float) -> bool:
    """Whether a document id belongs to ``split`` (train, validation).

    The hash of the text decides, so no text is in both splits.
    """
    # The low bits decide, so the split is independent of any order by the high bits.
    is_validation = (document & 0xFFFFFFFF) / 2**32 < validation_fraction
    return is_validation == (split == "validation")


def split_texts(
    source: TextSource, name: str, split: str, archive: str | None = None, start: int = 0
) -> Iterator[tuple[int, int, Text]]:
    """(number in the stream, document id, text) of every text in a split, from number ``start`` on.

    Empty texts are left out. Raises UserError for missing or malformed input.
    """
    for number, text in enumerate(read(source, name, archive, start), start):
        document = document_id(text)
        if text and in_split(document, split, source.validation_fraction):
            yield number, document, text


def sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None = None,
    start: int = 0,
) -> Iterator[tuple[int, int, Sequence]]:
    """(number of the text in the stream, document id, sequence) for every sequence of a split.

    ``start`` is the number of the first text. Chats are cut after ``context`` tokens, documents become
    several sequences. Raises UserError for input that is missing or malformed, and for a chat that the
    template changes.
    """
    log.info("reading %s: the %s texts of %s", source.kind, split, name)
    for number, document, text in split_texts(source, name, split, archive, start):
        if isinstance(text, str):
            parts = document_sequences(text, tokenizer, context)
        else:
            parts = [taken(chat_sequence(text, tokenizer, f"dataset {name}, chat {number}"), slice(context))]
        for part in parts:
            if len(part.token) > 1:
                yield number, document, part


def tokenise_shard(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    tokens: int,
    path: str | Path,
    archive: str | None = None,
    previous: str | Path | None = None,
) -> None:
    """Write the next ``tokens`` tokens of a split to ``path``, as Parquet.

    They follow the shard ``previous``, or begin with the first text. The last sequence is cut where the shard
    is full, and the next shard begins with the next text. Raises UserError if the data set has too few
    tokens.
    """
    start = _next_text(previous) if previous else 0
    found: list[tuple[int, Sequence]] = []
    missing, next_text = tokens, start
    for number, document, sequence in sequences(source, name, split, tokenizer, context, archive, start):
        found.append((document, taken(sequence, slice(missing))))
        missing -= len(found[-1][1].token)
        next_text = number + 1
        if missing == 0:
            break
    if missing:
        none = "" if found else " (no text found)"
        short = f"its {split} texts end {missing:,} tokens short of this shard's {tokens:,}{none}"
        key = "tokens" if split == "train" else "validation_tokens"
        raise UserError(f"datasets.{name}: {short}; lower {key} or add text")
    table = pa.table(Shard.of(found)._asdict()).replace_schema_metadata(
        {"next_text": str(next_text)} | record_mark()
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _next_text(path: str | Path) -> int:
    """Number of the first text after those in a shard."""
    try:
        return int(pq.read_schema(path).metadata[b"next_text"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise _not_a_shard(path, error) from error


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
