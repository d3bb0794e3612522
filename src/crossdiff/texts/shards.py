"""Token shards: fixed numbers of tokens, cut from the stream of a data set's texts, one file each.

A shard begins where the one before it ended, so growing a data set adds shards and changes none.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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

COLUMNS = ("token", "document", "position", "role", "template")


class Shard(NamedTuple):
    """One shard, arrays of one entry per token; a sequence starts wherever ``position`` is 0."""

    token: np.ndarray  # int32
    document: np.ndarray  # int64, a hash of the text: equal texts share it
    position: np.ndarray  # int32, in the sequence
    role: np.ndarray  # int8, see texts.chats
    template: np.ndarray  # int8, see texts.chats

    @classmethod
    def of(cls, sequences: list[tuple[int, Sequence]]) -> "Shard":
        """Sequences with their documents, one after the other."""
        return cls(
            token=np.concatenate([sequence.token for _, sequence in sequences]),
            document=np.concatenate(
                [np.full(len(sequence.token), document, np.int64) for document, sequence in sequences]
            ),
            position=np.concatenate(
                [np.arange(len(sequence.token), dtype=np.int32) for _, sequence in sequences]
            ),
            role=np.concatenate([sequence.role for _, sequence in sequences]),
            template=np.concatenate([sequence.template for _, sequence in sequences]),
        )

    def sequence_starts(self) -> np.ndarray:
        """Row of the first token of every sequence."""
        return np.flatnonzero(self.position == 0)

    def sequence_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Row of the first token of every sequence, and the row after its last."""
        starts = self.sequence_starts()
        return starts, np.append(starts[1:], len(self.token))


def document_id(text: Text) -> int:
    """63 bits of the text's SHA-256. The split and the document column both use it."""
    content = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(content.encode("utf-8")).digest()[:8], "big") >> 1


def in_split(document: int, split: str, validation_fraction: float) -> bool:
    """Whether a document belongs to ``split``: decided by its hash, so no document stands in both."""
    # The low bits: independent of anything that orders by the high ones.
    is_validation = (document & 0xFFFFFFFF) / 2**32 < validation_fraction
    return is_validation == (split == "validation")


def split_texts(
    source: TextSource, name: str, split: str, archive: str | None = None, start: int = 0
) -> Iterator[tuple[int, int, Text]]:
    """(number in the stream, document id, text) of every text of a split that is not empty, from number ``start`` on."""
    for number, text in enumerate(read(source, name, archive, start), start):
        document = document_id(text)
        if text and in_split(document, split, source.validation_fraction):
            yield number, document, text


def sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer,
    context: int,
    archive: str | None = None,
    start: int = 0,
) -> Iterator[tuple[int, int, Sequence]]:
    """(number of the text in the stream, document id, sequence) for every sequence of a split, texts from ``start`` on."""
    for number, document, text in split_texts(source, name, split, archive, start):
        if source.kind == "documents":
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
    tokenizer,
    context: int,
    tokens: int,
    path: str | Path,
    archive: str | None = None,
    previous: str | Path | None = None,
) -> None:
    """Write the next ``tokens`` tokens of a split, after the shard ``previous``, as Parquet.

    The last sequence is cut where the shard is full; the next shard goes on with the next text.
    Raises UserError when the data set has fewer tokens.
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
        raise UserError(
            f"datasets.{name}: its {split} texts end {missing:,} tokens short of this shard's {tokens:,}"
            f"{' (no text found)' if not found else ''}; lower {'tokens' if split == 'train' else 'validation_tokens'} or add text"
        )
    table = pa.table(Shard.of(found)._asdict()).replace_schema_metadata(
        {"next_text": str(next_text)} | record_mark()
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _next_text(path: str | Path) -> int:
    """Number of the first text that a shard does not hold."""
    try:
        return int(pq.read_schema(path).metadata[b"next_text"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise _not_a_shard(path, error) from error


def _not_a_shard(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a whole token shard ({first_line(error)})")


def read_shard(path: str | Path) -> Shard:
    """Read a token shard. Raises UserError for a truncated or foreign file."""
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise _not_a_shard(path, error) from error
    return Shard(
        *(np.array(table[column].to_numpy()) for column in COLUMNS)
    )  # copies: torch warns of arrays that are read-only
