"""Turn documents and chats into tokens. Each token is marked with its turn's role and its template part."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossdiff.texts.formats import ROLES
from crossdiff.texts.markers import marker_ids
from crossdiff.texts.templates import Rendered, render
from crossdiff.texts.turns import Chat, Turn
from crossdiff.texts.unusable import Unusable

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

# Codes of the role and template-part columns of a token shard.
NO_ROLE = len(ROLES)
CONTENT, HEADER, TURN_END = 0, 1, 2
TEMPLATE_PARTS = ("content", "header", "turn end")


class Sequence(NamedTuple):
    """One sequence of tokens: arrays of equal length, (tokens,)."""

    token: np.ndarray  # int32 ids
    role: np.ndarray  # int8, index into formats.ROLES or NO_ROLE
    template: np.ndarray  # int8: CONTENT, HEADER or TURN_END


def chat_sequence(
    chat: list[Turn], tokenizer: "PreTrainedTokenizerBase", where: str, ask: bool = False
) -> Sequence:
    """Render a chat with the tokenizer's own template, and tokenise it.

    With ``ask`` the sequence ends with the header of an assistant's turn, so that a model can answer.
    ``where`` names the chat in errors. Text outside of what the turns say belongs to the template.
    Between two contents, the tokens up to and including the first special or added token end a turn, and the
    others open the next turn. If there is no such token, one token ends the turn.

    Raises Unusable (a UserError) if the template refuses the chat, leaves out a turn or changes a content.
    """
    try:
        rendered = render(chat, tokenizer, ask)
    except Unusable as problem:
        raise Unusable(problem.reason, chat, where) from problem
    return _marked([rendered], encode([rendered], tokenizer), tokenizer, ask)[0]


# Many chats take three steps, because the second one leaves Python free to do the others for other chats.


def render_chats(
    chats: list[Chat], tokenizer: "PreTrainedTokenizerBase", rewritten: str = "skip"
) -> list[Rendered | Unusable]:
    """Chats as texts, and an Unusable for each that can't be used.

    ``rewritten`` (skip, keep) decides on turns that the template rewrites.
    """
    found: list[Rendered | Unusable] = []
    for chat in chats:
        try:
            found.append(render(chat, tokenizer, rewritten=rewritten))
        except Unusable as problem:
            found.append(Unusable(problem.reason, chat))
    return found


def encode(rendered: Iterable[Rendered | Unusable], tokenizer: "PreTrainedTokenizerBase") -> list["Encoding"]:
    """The texts as the tokenizer's library gives them: places of characters are looked up where needed."""
    backend = tokenizer.backend_tokenizer
    # As PreTrainedTokenizerFast does before each call.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    texts = [one.text for one in rendered if isinstance(one, Rendered)]
    return list(backend.encode_batch(texts, add_special_tokens=False))


def chat_sequences(
    rendered: list[Rendered | Unusable], encodings: list["Encoding"], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[Sequence, list[str]] | Unusable]:
    """For each chat of ``rendered`` its sequence, and what the template left out of it.

    ``encodings`` are those of ``encode``. An Unusable stands for itself.
    """
    used = [one for one in rendered if isinstance(one, Rendered)]
    marked = iter(_marked(used, encodings, tokenizer))
    return [one if isinstance(one, Unusable) else (next(marked), one.notes) for one in rendered]


def windows(sequence: Sequence, context: int, bos: list[int]) -> list[Sequence]:
    """Cut a chat into windows of at most ``context`` tokens. Each starts with ``bos`` if the chat does.

    ``bos`` are the ids that the tokenizer puts before every text (``documents.start_ids``). A template may
    open turns with the token that a tokenizer calls BOS, and later windows must not begin with such a header.
    """
    first = len(bos) if sequence.token[: len(bos)].tolist() == bos else 0
    size = context - first
    return [
        Sequence(*(np.concatenate([column[:first], column[i : i + size]]) for column in sequence))
        for i in range(first, len(sequence.token), size)
    ]


def _marked(
    rendered: list[Rendered],
    encodings: list["Encoding"],
    tokenizer: "PreTrainedTokenizerBase",
    ask: bool = False,
) -> list[Sequence]:
    """Rendered chats as tokens that are marked with role and template part."""
    if not rendered:
        return []
    token = np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings])
    stops = np.cumsum([len(encoding) for encoding in encodings])
    starts = np.append(0, stops[:-1])
    # The first token of each turn's words, and the token after its last.
    found = [
        (first + start, last + start)
        for one, encoding, start in zip(rendered, encodings, starts.tolist(), strict=True)
        for first, last in _places(encoding, one.spans)
    ]
    first, last = np.array(found, np.int64).reshape(-1, 2).T
    turns = np.cumsum([len(one.spans) for one in rendered])  # up to the end of each chat
    speakers = np.array([_code(role) for one in rendered for _, _, role in one.spans], np.int8)
    is_marker = np.isin(token, np.array(sorted(marker_ids(tokenizer)), np.int32))
    end = _turn_ends(is_marker, last, _limits(first, turns, stops))
    # Three parts of each turn, and what follows the last turn of each chat.
    bounds = np.insert(np.stack([first, last, end], axis=1).ravel(), 3 * turns, stops)
    parts = np.tile(np.array([HEADER, CONTENT, TURN_END], np.int8), len(end))
    parts = np.insert(parts, 3 * turns, HEADER if ask else TURN_END)
    roles = np.insert(np.repeat(speakers, 3), 3 * turns, _last_speakers(rendered, ask))
    # A token with words of two turns belongs to the first one.
    lengths = np.diff(np.maximum.accumulate(bounds), prepend=0)
    columns = token, np.repeat(roles, lengths), np.repeat(parts, lengths)
    return [
        Sequence(*(column[start:stop] for column in columns))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def _places(encoding: "Encoding", spans: list[tuple[int, int, str]]) -> Iterator[tuple[int, int]]:
    """The first token of each span's characters, and the token after the last.

    A token with at least one character of the span counts.
    """
    offsets = None
    for start, stop, _ in spans:
        first = _token_at(encoding, start)
        last = first if start == stop else _token_at(encoding, stop)
        if first is None or last is None:  # the span begins or ends within a token, or at the text's end
            if offsets is None:
                offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
            first = int(np.searchsorted(offsets[1], start, side="right"))
            last = int(np.searchsorted(offsets[0], stop, side="left")) if stop > start else first
        yield first, last


def _token_at(encoding: "Encoding", place: int) -> int | None:
    """The token that begins with the character at ``place``. None if no token does."""
    token = encoding.char_to_token(place)
    characters = None if token is None else encoding.token_to_chars(token)
    return token if characters and characters[0] == place else None


def _limits(first: np.ndarray, turns: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Where the next turn's words begin, or the chat ends, for each turn."""
    limits = np.append(first[1:], 0)[: len(first)]
    has_turns = np.diff(turns, prepend=0) > 0
    limits[turns[has_turns] - 1] = stops[has_turns]
    return limits


def _turn_ends(is_marker: np.ndarray, last: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The token after each turn's end, which is the first marker after the words.

    Without a marker before the limit, one token ends the turn.
    """
    marker = np.append(np.flatnonzero(is_marker), len(is_marker))
    following = marker[np.searchsorted(marker, last)]
    return np.maximum(last, np.where(following < limits, following + 1, np.minimum(last + 1, limits)))


def _last_speakers(rendered: list[Rendered], ask: bool) -> list[int]:
    if ask:
        return [_code("assistant")] * len(rendered)
    return [_code(one.spans[-1][2] if one.spans else "user") for one in rendered]


def _code(speaker: str) -> int:
    """The code of a role. A tool's turn counts as the user's."""
    return ROLES.index("user" if speaker == "tool" else speaker)


def is_answer(role: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Mask of the assistant's words and turn ends, (tokens,) bool."""
    return (role == ROLES.index("assistant")) & (template != HEADER)
