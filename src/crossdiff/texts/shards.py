"""Token shards: files with a fixed number of tokens each, cut from the stream of a data set's texts.

Each shard begins where the shard before it ended. So a larger data set adds shards and changes none. The
place in the data set where the next shard begins stands in a file of its own. It moves when an earlier record
gets longer, and the shard stays as it is.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, read_json, record_mark, write_json
from crossdiff.texts.chats import Sequence, chat_sequences, windows
from crossdiff.texts.columns import taken
from crossdiff.texts.documents import document_windows
from crossdiff.texts.formats import Text
from crossdiff.texts.sources import Place, read
from crossdiff.texts.turns import Chat, cleaned, merged
from crossdiff.texts.unusable import Tally, Unusable, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Given = TypeVar("Given")
Made = TypeVar("Made")

BATCH = 1 << 16  # characters of texts that are tokenised together
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


class Chosen(NamedTuple):
    """A text of one split, or a record of it that can't be used."""

    number: int  # in the stream
    document: int
    text: Text | Unusable
    after: Place
    notes: list[str]  # what was changed in it


def split_texts(
    source: TextSource, name: str, split: str, archive: str | None = None
) -> Iterator[tuple[int, int, Text]]:
    """(number in the stream, document id, text) of every text in a split.

    Empty texts and records that can't be used are left out. Raises UserError for missing or malformed input.
    """
    for chosen in _chosen(source, name, split, archive):
        if not isinstance(chosen.text, Unusable):
            yield chosen.number, chosen.document, chosen.text


def _chosen(
    source: TextSource, name: str, split: str, archive: str | None = None, start: Place | None = None
) -> Iterator[Chosen]:
    for number, found, after in read(source, name, archive, start):
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
        yield Chosen(number, document, text, after, notes)


def sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None = None,
    tally: Tally | None = None,
) -> Iterator[tuple[int, int, Sequence]]:
    """(number of the text in the stream, document id, sequence) for every sequence of a split.

    Chats are cut after ``context`` tokens, or into windows as documents are (``long``). Records that can't be
    used, and chats that the template changes, are skipped and counted in ``tally``.

    Raises UserError for input that is missing, and if no record can be used.
    """
    tally = tally or Tally(name)
    for chosen, sequence in _sequences(source, name, split, tokenizer, context, archive, None, tally):
        yield chosen.number, chosen.document, sequence


def _sequences(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    archive: str | None,
    start: Place | None,
    tally: Tally,
) -> Iterator[tuple[Chosen, Sequence]]:
    """The sequences from ``start`` on. ``tally`` has counted every text up to the last one that was given."""

    def chats_of(batch: list[Chosen]) -> list[tuple[Sequence, list[str]] | Unusable]:
        chats = [chosen.text for chosen in batch if isinstance(chosen.text, Chat)]
        return chat_sequences(chats, tokenizer, source.rewritten)

    for batch, made_chats in _ahead(_batches(_chosen(source, name, split, archive, start)), chats_of):
        texts = [chosen.text for chosen in batch if isinstance(chosen.text, str)]
        documents, chats = iter(document_windows(texts, tokenizer, context)), iter(made_chats)
        for chosen in batch:
            parts: Iterable[Sequence]
            if isinstance(chosen.text, str):
                tally.use(*chosen.notes)
                parts = next(documents)
            else:
                made = chosen.text if isinstance(chosen.text, Unusable) else next(chats)
                if isinstance(made, Unusable):
                    tally.skip(chosen.number, made)
                    continue
                parts, notes = _cut(made[0], made[1], source, context, tokenizer.bos_token_id)
                tally.use(*chosen.notes, *notes)
            for part in parts:
                if len(part.token) > 1:
                    yield chosen, part


def _ahead(given: Iterator[Given], make: Callable[[Given], Made]) -> Iterator[tuple[Given, Made]]:
    """What is given, each with what ``make`` makes of it in a thread while the next one is read."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[Given, Future[Made]] | None = None
        for one in given:
            begun = one, pool.submit(make, one)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = begun
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _cut(
    chat: Sequence, notes: list[str], source: TextSource, context: int, bos: int | None
) -> tuple[list[Sequence], list[str]]:
    """A chat as sequences of at most ``context`` tokens, and the ``notes`` with what was done to it."""
    if len(chat.token) <= context:
        return [chat], notes
    if source.long == "cut":
        return [taken(chat, slice(context))], ["chats cut, longer than tokens.context", *notes]
    return windows(chat, context, bos), ["chats in several windows, longer than tokens.context", *notes]


def _batches(found: Iterator[Chosen]) -> Iterator[list[Chosen]]:
    """Texts in groups of at least BATCH characters, but for the last one."""
    batch: list[Chosen] = []
    characters = 0
    for chosen in found:
        batch.append(chosen)
        if isinstance(chosen.text, str):
            characters += len(chosen.text)
        elif isinstance(chosen.text, Chat):
            characters += sum(len(turn["content"]) for turn in chosen.text)
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
    unusable: float = 1.0,
) -> None:
    """Write the next ``tokens`` tokens of a split to ``path``, and where they end to ``next_path``.

    They begin at the place in the file ``previous``, or with the first text. The last sequence is cut where
    the shard is full, and the next shard begins with the next text. The counts of records that were read and
    skipped stand in the shard's metadata (``read_counts``).

    Raises UserError if the data set has too few tokens, and if more than the share ``unusable`` of its
    records can't be used.
    """
    start, before = read_place(previous) if previous else (Place(), (0, 0))
    found: list[tuple[int, Sequence]] = []
    missing, after = tokens, start
    tally = Tally(name, unusable, before)
    for chosen, sequence in _sequences(source, name, split, tokenizer, context, archive, start, tally):
        found.append((chosen.document, taken(sequence, slice(missing))))
        missing -= len(found[-1][1].token)
        after = chosen.after
        if missing == 0:
            break
    tally.check()
    if missing:
        none = "" if found else " (no text found)"
        short = f"its {split} texts end {missing:,} tokens short of this shard's {tokens:,}{none}"
        key = "tokens" if split == "train" else "validation_tokens"
        raise UserError(f"datasets.{name}: {short}; lower {key} or add text")
    counts = json.dumps({"dataset": name, "split": split, **tally.counts()}, ensure_ascii=False)
    log.info("%s", counts)
    _write(pa.table(Shard.of(found)._asdict()), {"texts": counts}, Path(path))
    write_json(next_path, after._asdict() | {"so_far": tally.so_far()})


def _write(table: pa.Table, facts: dict[str, str], path: Path) -> None:
    """Write a shard with ``facts`` in its metadata.

    A file that already holds the same is left as it is, with the id of its first record. So what was made
    from a shard stays when a text of another shard changes.
    """
    if path.exists():
        kept: dict[Any, Any] = {}
        try:
            kept = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowInvalid):
            pass  # a damaged file is replaced
        mark = {key: value for key, value in kept.items() if key == b"crossdiff-record"}
        if _as_parquet(table, facts | mark) == path.read_bytes():
            return
    with atomic_path(path) as temporary:
        temporary.write_bytes(_as_parquet(table, facts | record_mark()))


def _as_parquet(table: pa.Table, metadata: dict[Any, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_place(path: str | Path) -> tuple[Place, tuple[int, int]]:
    """The place in a data set, and the numbers of records and of skipped ones before it.

    They stand in a file that ``tokenise_shard`` wrote. Raises UserError for another file.
    """
    values = read_json(path)
    try:
        records, skipped = values.pop("so_far")
        return Place(**values), (records, skipped)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the place of a next shard ({first_line(error)})") from error


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
