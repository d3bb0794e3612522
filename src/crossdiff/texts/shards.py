"""Token shards: files with a fixed number of tokens each, cut from the stream of a data set's texts.

Each shard begins where the shard before it ended. So a larger data set adds shards and changes none.
"""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, record_mark
from crossdiff.texts.chats import Sequence, chat_sequences, document_sequences, windows
from crossdiff.texts.columns import taken
from crossdiff.texts.formats import Text
from crossdiff.texts.sources import read
from crossdiff.texts.turns import Chat, cleaned, merged
from crossdiff.texts.unusable import Tally, Unusable, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CHATS = 64  # rendered and tokenised at a time
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


def added(paths: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Data set -> counts of everything that was read for these shards: records, skipped and notes.

    Raises UserError for a file that is no token shard.
    """
    found: dict[str, dict[str, Any]] = {}
    for counts in map(read_counts, paths):
        of = found.setdefault(counts["dataset"], {"records": 0, "skipped": Counter(), "notes": Counter()})
        of["records"] += counts["records"]
        of["skipped"].update(counts["skipped"])
        of["notes"].update(counts["notes"])
    return {
        name: {**of, **{part: dict(sorted(of[part].items())) for part in ("skipped", "notes")}}
        for name, of in sorted(found.items())
    }


def document_id(text: Text) -> int:
    """63 bits of the text's SHA-256, for the split and the document column."""
    said = {"tools": text.tools, "turns": text} if isinstance(text, Chat) and text.tools else text
    content = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
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

    Empty texts and records that can't be used are left out. Raises UserError for missing or malformed input.
    """
    for number, document, found, _ in _of_split(source, name, split, archive, start):
        if not isinstance(found, Unusable):
            yield number, document, found


def _of_split(
    source: TextSource, name: str, split: str, archive: str | None, start: int
) -> Iterator[tuple[int, int, Text | Unusable, list[str]]]:
    """Like ``split_texts``, with the records that can't be used, and with notes on what was changed."""
    for number, found in enumerate(read(source, name, archive, start), start):
        text: Text | Unusable = found if isinstance(found, Unusable) else cleaned(found)
        notes = ["lone surrogates replaced"] if text is not found else []
        # A record that can't be used is counted in one split only, too.
        document = document_id(as_text(text.record) if isinstance(text, Unusable) else text)
        if not text or not in_split(document, split, source.validation_fraction):
            continue
        if isinstance(text, Chat):
            notes += [f"read as {text.read_as}"] if text.read_as else []
            text, merges = merged(text, source.system, source.same_role)
            notes += merges
        yield number, document, text, notes


def sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None = None,
    start: int = 0,
    tally: Tally | None = None,
) -> Iterator[tuple[int, int, Sequence]]:
    """(number of the text in the stream, document id, sequence) for every sequence of a split.

    ``start`` is the number of the first text. Chats are cut after ``context`` tokens, or into windows as
    documents are (``long``). Records that can't be used, and chats that the template changes, are skipped and
    counted in ``tally``. Raises UserError for input that is missing, and if no record can be used.
    """
    tally = tally or Tally(name)
    found = _of_split(source, name, split, archive, start)
    while batch := list(itertools.islice(found, CHATS if source.kind == "chats" else 1)):
        chats = iter(
            chat_sequences(
                [text for _, _, text, _ in batch if isinstance(text, Chat)], tokenizer, source.rewritten
            )
        )
        for number, document, text, notes in batch:
            if isinstance(text, str):
                tally.use(*notes)
                parts = document_sequences(text, tokenizer, context)
            else:
                made = text if isinstance(text, Unusable) else next(chats)
                if isinstance(made, Unusable):
                    tally.skip(number, made)
                    continue
                whole, left_out = made
                parts = [whole]
                if len(whole.token) > context:
                    cut = source.long == "cut"
                    notes = [
                        *notes,
                        f"chats {'cut' if cut else 'in several windows'}, longer than tokens.context",
                    ]
                    parts = (
                        [taken(whole, slice(context))]
                        if cut
                        else windows(whole, context, tokenizer.bos_token_id)
                    )
                tally.use(*notes, *left_out)
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
    unusable: float = 1.0,
) -> None:
    """Write the next ``tokens`` tokens of a split to ``path``, as Parquet.

    They follow the shard ``previous``, or begin with the first text. The last sequence is cut where the shard
    is full, and the next shard begins with the next text. The counts of records that were read and skipped
    stand in the file's metadata (``read_counts``).

    Raises UserError if the data set has too few tokens, and if more than the share ``unusable`` of its
    records can't be used."""
    start = _next_text(previous) if previous else 0
    found: list[tuple[int, Sequence]] = []
    missing, next_text = tokens, start
    tally = Tally(name, unusable, tuple(read_counts(previous)["so_far"]) if previous else (0, 0))
    for number, document, sequence in sequences(
        source, name, split, tokenizer, context, archive, start, tally
    ):
        found.append((document, taken(sequence, slice(missing))))
        missing -= len(found[-1][1].token)
        next_text = number + 1
        if missing == 0:
            break
    tally.check()
    if missing:
        none = "" if found else " (no text found)"
        short = f"its {split} texts end {missing:,} tokens short of this shard's {tokens:,}{none}"
        key = "tokens" if split == "train" else "validation_tokens"
        raise UserError(f"datasets.{name}: {short}; lower {key} or add text")
    counts = {"dataset": name, "split": split, **tally.counts()}
    log.info("%s", json.dumps(counts, ensure_ascii=False))
    table = pa.table(Shard.of(found)._asdict()).replace_schema_metadata(
        {"next_text": str(next_text), "texts": json.dumps(counts, ensure_ascii=False)} | record_mark()
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _next_text(path: str | Path) -> int:
    """Number of the first text after those in a shard."""
    try:
        return int(pq.read_schema(path).metadata[b"next_text"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise _not_a_shard(path, error) from error


def read_counts(path: str | Path) -> dict[str, Any]:
    """What was read for a shard: dataset, split and what ``unusable.Tally.counts`` gives.

    Raises UserError for a file that is truncated or no token shard.
    """
    try:
        counts: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"texts"])
        return counts
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
