"""Tokenise a data set, and cut the stream of its sequences into shards.

Each shard begins where the shard before it ended. So a larger data set adds shards and changes none. The
place in the data set where the next shard begins stands in a file of its own. It moves when an earlier record
gets longer, and the shard stays as it is.
"""

import gc
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import read_json, write_json
from crossdiff.texts.chats import Sequence, chat_sequences, encode, render_chats, windows
from crossdiff.texts.columns import taken
from crossdiff.texts.documents import document_windows, start_ids
from crossdiff.texts.shards import Shard, write_shard
from crossdiff.texts.sources import Place
from crossdiff.texts.splits import Chosen, chosen_texts
from crossdiff.texts.turns import Chat
from crossdiff.texts.unusable import Tally, Unusable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Given = TypeVar("Given")
Made = TypeVar("Made")

BATCH = 1 << 19  # characters of texts that are tokenised together, at most
LEAST = 1 << 14  # and at least
RECORD = 100  # characters that a record counts beyond those of its text
COLLECTED = 200_000  # objects made between two collections
PER_TOKEN = 4  # characters, as long as no text is tokenised


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

    Texts are cut after ``context`` tokens, or into windows of as many (``long``). Records that can't be
    used, and chats that the template changes, are skipped and counted in ``tally``.

    Raises UserError for input that is missing, and if no record can be used.
    """
    texts = chosen_texts(source, name, split, archive)
    for chosen, sequence in _sequences(texts, source, tokenizer, context, tally or Tally(name)):
        yield chosen.number, chosen.document, sequence


def _sequences(
    texts: Iterator[Chosen],
    source: TextSource,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    tally: Tally,
    tokens: int = sys.maxsize,
) -> Iterator[tuple[Chosen, Sequence]]:
    """The sequences of ``texts``. ``tally`` has counted every text up to the last one that was given.

    ``tokens`` is how many are wanted, so that few texts are tokenised in vain.
    """
    bos = start_ids(tokenizer)
    in_windows = source.in_windows
    batches = _Batches(texts, tokens)
    of_chats = source.kind == "chats"

    def prepared() -> Iterator[tuple[list[Chosen], list[Any]]]:
        for batch in batches:
            usable: list[Any] = [chosen.text for chosen in batch if not isinstance(chosen.text, Unusable)]
            yield batch, render_chats(usable, tokenizer, source.rewritten) if of_chats else usable

    def made(given: tuple[list[Chosen], list[Any]]) -> list[Any]:
        return encode(given[1], tokenizer) if of_chats else document_windows(given[1], tokenizer, context)

    for (batch, given), found in _ahead(prepared(), made):
        each: Iterator[Any] = iter(chat_sequences(given, found, tokenizer) if of_chats else found)
        for chosen in batch:
            one = chosen.text if isinstance(chosen.text, Unusable) else next(each)
            if isinstance(one, Unusable):
                tally.skip(chosen.number, one)
                continue
            parts: Iterable[Sequence] = one
            notes: list[str] = []
            if of_chats:
                parts, notes = _cut(one, in_windows, context, bos)
            elif not in_windows:
                parts, notes = _first_window(one)
            tally.use(*chosen.notes, *notes)
            for part in parts:
                if len(part.token) > 1:
                    yield chosen, part
                    batches.tokens += len(part.token)
        batches.finished(batch)


class _Batches:
    """Texts in groups of BATCH characters, and of fewer where fewer tokens are wanted."""

    def __init__(self, texts: Iterator[Chosen], wanted: int) -> None:
        self._texts, self._wanted = texts, wanted
        self._read = self._done = 0  # characters of the groups that were given, and of those finished
        self.tokens = 0  # of the groups that are finished

    def finished(self, batch: list[Chosen]) -> None:
        self._done += sum(map(_characters, batch))

    def _size(self) -> int:
        per_token = self._done / self.tokens if self.tokens else PER_TOKEN
        missing = per_token * (self._wanted - self.tokens) - (self._read - self._done)
        return int(min(max(missing, LEAST), BATCH))

    def __iter__(self) -> Iterator[list[Chosen]]:
        batch: list[Chosen] = []
        characters, size = 0, self._size()
        for chosen in self._texts:
            batch.append(chosen)
            characters += _characters(chosen)
            if characters >= size:
                self._read += characters
                yield batch
                batch, characters, size = [], 0, self._size()
        if batch:
            yield batch


def _characters(chosen: Chosen) -> int:
    """Characters of a text, and some for its record."""
    if isinstance(chosen.text, str):
        return RECORD + len(chosen.text)
    if isinstance(chosen.text, Chat):
        return RECORD + sum(len(turn["content"]) for turn in chosen.text)
    return RECORD


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles more seldom. Texts have none, and looking takes a fifth of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECTED, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


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
    made: tuple[Sequence, list[str]], in_windows: bool, context: int, bos: list[int]
) -> tuple[list[Sequence], list[str]]:
    """A chat as sequences of at most ``context`` tokens, and its notes with what was done to it."""
    chat, notes = made
    if len(chat.token) <= context:
        return [chat], notes
    if in_windows:
        return windows(chat, context, bos), ["chats in several windows, longer than tokens.context", *notes]
    return [taken(chat, slice(context))], ["chats cut, longer than tokens.context", *notes]


def _first_window(windows: Iterator[Sequence]) -> tuple[list[Sequence], list[str]]:
    """A document as one sequence, and a note if it was longer."""
    parts = list(islice(windows, 2))
    return parts[:1], ["documents cut, longer than tokens.context"] if parts[1:] else []


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
    the shard is full, and the next shard begins with the next text. ``next_path`` also says how many records
    were read and skipped (``texts.counts``).

    Raises UserError if the data set has too few tokens, and if more than the share ``unusable`` of its
    records can't be used.
    """
    start, before = read_place(previous) if previous else (Place(), None)
    found: list[tuple[int, Sequence]] = []
    missing, after = tokens, start
    tally = Tally(name, unusable, before)
    texts = chosen_texts(source, name, split, archive, start)
    with _few_collections():
        for chosen, sequence in _sequences(texts, source, tokenizer, context, tally, tokens):
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
        skipped = f"; {tally.told()}: {tally.reasons()}" if tally.told() else ""
        raise UserError(f"datasets.{name}: {short}; lower {key} or add text{skipped}")
    counts = {"dataset": name, "split": split, **tally.counts()}
    log.info("%s", json.dumps(counts, ensure_ascii=False))
    write_shard(path, Shard.of(found))
    write_json(next_path, after._asdict() | {"so_far": tally.so_far(), "read": counts})


def read_place(path: str | Path) -> tuple[Place, dict[str, Any]]:
    """The place in a data set, and what was read before it (``Tally.so_far``).

    They stand in a file that ``tokenise_shard`` wrote. Raises UserError for another file.
    """
    values = read_json(path)
    try:
        place = Place(*(values[field] for field in Place._fields))
        return place, {part: values["so_far"][part] for part in ("records", "skipped", "examples")}
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: not the place of a next shard ({first_line(error)})") from error
