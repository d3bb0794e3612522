"""Token shards: files with a fixed number of tokens each, cut from the stream of a data set's texts.

Each shard begins where the shard before it ended. So a larger data set adds shards and changes none. The place
in the data set where the next shard begins stands in a file of its own. It moves when an earlier record gets
longer, and the shard stays as it is.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, read_json, record_mark, write_json
from crossdiff.texts.chats import Sequence, chat_sequence
from crossdiff.texts.columns import taken
from crossdiff.texts.documents import document_windows
from crossdiff.texts.formats import Text
from crossdiff.texts.sources import Place, read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1 << 17  # characters of texts that are tokenised together
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


class Chosen(NamedTuple):
    """A text of one split."""

    number: int  # in the stream
    document: int
    text: Text
    after: Place


def split_texts(
    source: TextSource, name: str, split: str, archive: str | None = None
) -> Iterator[tuple[int, int, Text]]:
    """(number in the stream, document id, text) of every text in a split.

    Empty texts are left out. Raises UserError for missing or malformed input.
    """
    return (chosen[:3] for chosen in _chosen(source, name, split, archive))


def _chosen(
    source: TextSource, name: str, split: str, archive: str | None = None, start: Place | None = None
) -> Iterator[Chosen]:
    for number, text, after in read(source, name, archive, start):
        document = document_id(text)
        if text and in_split(document, split, source.validation_fraction):
            yield Chosen(number, document, text, after)


def sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None = None,
) -> Iterator[tuple[int, int, Sequence]]:
    """(number of the text in the stream, document id, sequence) for every sequence of a split.

    Chats are cut after ``context`` tokens, documents become several sequences. Raises UserError for input that
    is missing or malformed, and for a chat that the template changes.
    """
    for chosen, sequence in _sequences(source, name, split, tokenizer, context, archive):
        yield chosen.number, chosen.document, sequence


def _sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None = None,
    start: Place | None = None,
) -> Iterator[tuple[Chosen, Sequence]]:
    for batch in _batches(_chosen(source, name, split, archive, start)):
        documents = [chosen.text for chosen in batch if isinstance(chosen.text, str)]
        windows = iter(document_windows(documents, tokenizer, context))
        for chosen in batch:
            parts: Iterable[Sequence]
            if isinstance(chosen.text, str):
                parts = next(windows)
            else:
                chat = chat_sequence(chosen.text, tokenizer, f"dataset {name}, chat {chosen.number}")
                parts = [taken(chat, slice(context))]
            for part in parts:
                if len(part.token) > 1:
                    yield chosen, part


def _batches(found: Iterator[Chosen]) -> Iterator[list[Chosen]]:
    """Texts in groups of at least BATCH characters, but for the last one."""
    batch: list[Chosen] = []
    characters = 0
    for chosen in found:
        batch.append(chosen)
        said = [chosen.text] if isinstance(chosen.text, str) else [turn["content"] for turn in chosen.text]
        characters += sum(map(len, said))
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def tokenise_shard(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    tokens: int,
    path: str | Path,
    next_path: str | Path,
    archive: str | None = None,
    previous: str | Path | None = None,
) -> None:
    """Write the next ``tokens`` tokens of a split to ``path``, as Parquet, and where they end to ``next_path``.

    They begin at the place in the file ``previous``, or with the first text. The last sequence is cut where the
    shard is full, and the next shard begins with the next text. Raises UserError if the data set has too few
    tokens.
    """
    start = read_place(previous) if previous else Place()
    found: list[tuple[int, Sequence]] = []
    missing, after = tokens, start
    for chosen, sequence in _sequences(source, name, split, tokenizer, context, archive, start):
        found.append((chosen.document, taken(sequence, slice(missing))))
        missing -= len(found[-1][1].token)
        after = chosen.after
        if missing == 0:
            break
    if missing:
        none = "" if found else " (no text found)"
        short = f"its {split} texts end {missing:,} tokens short of this shard's {tokens:,}{none}"
        key = "tokens" if split == "train" else "validation_tokens"
        raise UserError(f"datasets.{name}: {short}; lower {key} or add text")
    _write(pa.table(Shard.of(found)._asdict()), Path(path))
    write_json(next_path, after._asdict())


def _write(table: pa.Table, path: Path) -> None:
    """Write a shard. A file that already holds the same is left as it is, with the id of its first record.

    So what was made from a shard stays when a text of another shard changes.
    """
    if path.exists():
        try:
            mark = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowInvalid):
            mark = {}
        if _as_parquet(table.replace_schema_metadata(mark)) == path.read_bytes():
            return
    with atomic_path(path) as temporary:
        temporary.write_bytes(_as_parquet(table.replace_schema_metadata(record_mark())))


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_place(path: str | Path) -> Place:
    """The place in a data set from a file that ``tokenise_shard`` wrote. Raises UserError for another file."""
    try:
        return Place(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: not the place of a next shard ({first_line(error)})") from error


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
