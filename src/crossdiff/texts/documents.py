"""Cut documents into windows of tokens.

Long ones are tokenised in pieces, with the ids of the whole document.

A tokenizer splits a text into words and turns each word into tokens of its own, so a cut between two words
changes no id. A place in a document is taken as such a cut if three things hold:

- It is a space or line feed between two letters.
- The tokenizer begins a new word there. If it splits no text into words, its vocabulary must have no token in
  which that space or line feed follows a letter.
- The text around it, NEAR characters on each side, has the same ids in one go and in two.

A document without such a place is tokenised as a whole.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crossdiff.texts.chats import HEADER, NO_ROLE, Sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 1 << 16  # characters
NEAR = 256  # characters
TRIED = 32  # places in a row that are tried as a cut
_LETTER = r"[^\W\d_]"
_CUT = re.compile(rf"(?<={_LETTER})[ \n](?={_LETTER})")
# A letter and the separator after it, as vocabularies spell them.
_JOINED = {" ": re.compile(rf"{_LETTER}[ ▁Ġ]"), "\n": re.compile(rf"{_LETTER}[\nĊ]")}


def document_windows(
    texts: list[str], tokenizer: "PreTrainedTokenizerBase", context: int
) -> list[Iterator[Sequence]]:
    """Cut each document into windows of at most ``context`` tokens.

    Each window starts with BOS if the tokenizer adds one. Short documents are tokenised together, and long
    ones as far as their windows are asked for.
    """
    bos = start_ids(tokenizer)
    short = [text for text in texts if not _is_long(text)]
    batch: list[list[int]] = (
        tokenizer(short, add_special_tokens=False, verbose=False)["input_ids"] if short else []
    )
    together = iter(batch)
    return [
        _windows(
            ids_in_pieces(text, tokenizer, PIECE) if _is_long(text) else iter([next(together)]), bos, context
        )
        for text in texts
    ]


def _is_long(text: str) -> bool:
    return len(text) >= 2 * PIECE


def _windows(ids: Iterator[list[int]], bos: list[int], context: int) -> Iterator[Sequence]:
    size = context - len(bos)
    left: list[int] = []
    for part in ids:
        left += part
        whole = len(left) // size * size
        yield from (_plain(bos + left[i : i + size], len(bos)) for i in range(0, whole, size))
        left = left[whole:]
    if left:
        yield _plain(bos + left, len(bos))


def start_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The BOS id if the tokenizer puts one before every text."""
    bos = tokenizer.bos_token_id
    return [bos] if tokenizer("a")["input_ids"][:1] == [bos] else []


def _plain(ids: list[int], n_bos: int) -> Sequence:
    template = np.zeros(len(ids), np.int8)
    template[:n_bos] = HEADER
    return Sequence(np.asarray(ids, np.int32), np.full(len(ids), NO_ROLE, np.int8), template)


def ids_in_pieces(text: str, tokenizer: "PreTrainedTokenizerBase", piece: int) -> Iterator[list[int]]:
    """The ids of a document without special tokens, part by part.

    Each part but the last stands for ``piece`` characters or some more.
    """
    start = 0
    while len(text) - start >= 2 * piece:
        cut = _cut(text, start + piece, tokenizer)
        if cut is None:
            break
        stop, following = cut
        yield _ids(text[start:stop], tokenizer)
        start = following
    yield _ids(text[start:], tokenizer)


def _ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _cut(text: str, near: int, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int] | None:
    """Where a piece ends and the next one starts, or None if there is no place to cut.

    The next piece starts with the space. It starts after the space where the tokenizer puts a space of its
    own before every text.
    """
    for tried, match in enumerate(_CUT.finditer(text, near), 1):
        for following in (match.start(), match.end()):
            if _is_exact(text, match.start(), following, tokenizer):
                return match.start(), following
        if tried == TRIED:
            break
    return None


def _is_exact(text: str, place: int, following: int, tokenizer: "PreTrainedTokenizerBase") -> bool:
    first, last = max(0, place - NEAR), place + NEAR
    whole = tokenizer(text[first:last], add_special_tokens=False)
    left, right = _ids(text[first:place], tokenizer), _ids(text[following:last], tokenizer)
    if list(whole["input_ids"]) != left + right:
        return False
    words = whole.word_ids()
    return words[len(left) - 1] != words[len(left)] or _never_joins(tokenizer, text[place])


@lru_cache(maxsize=2)
def _never_joins(tokenizer: "PreTrainedTokenizerBase", separator: str) -> bool:
    """Whether no token of the vocabulary holds a letter and the ``separator`` after it."""
    return not any(_JOINED[separator].search(token) for token in tokenizer.get_vocab())
