"""Features of tokens: what can be said of a token without a language model.

They describe the token itself, the tokens before it, and its place. A feature is an int64, with its kind in
the top bits and what it refers to in the lower bits. ``describe`` puts it into words.
"""

import json
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from crossdiff.explanations.contexts import Text
from crossdiff.texts.chats import CONTENT, NO_ROLE, TEMPLATE_PARTS
from crossdiff.texts.formats import ROLES

# In order of preference. Of features that tell contexts apart equally well, the earlier kind is the simpler.
KINDS = ("token", "bigram", "trigram", "turn", "opening", "position", "window")
TOKEN, BIGRAM, TRIGRAM, TURN, OPENING, POSITION, WINDOW = range(len(KINDS))
WORDS = (TOKEN, BIGRAM, TRIGRAM)  # a pattern may combine several features of these kinds
NGRAM = {TOKEN: 1, BIGRAM: 2, TRIGRAM: 3}
OPENINGS = (1, 2, 4, 8)  # an opening is the first 1, 2, 4 or 8 tokens of a turn
# A position is among the first 1, 2, ... tokens of a text. A window is so of any sequence, which may start in
# the middle of a text.
POSITIONS = (1, 2, 4, 8, 16)
NONE = -1  # stands for no feature, where a kind says nothing about a token

_KIND, _ID = 60, 20  # number of bits below the kind, and of a token id or another small number

Feature = TypeVar("Feature", int, np.ndarray)


def features(text: Text, since: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """List the features of each token: (rows, columns) int64, NONE where a kind has none.

    ``rows`` are rows of ``text``. ``since`` is ``text.since_template()``.
    """
    token, position, role = text.token.astype(np.int64), text.position[rows], text.role[rows].astype(np.int64)
    one, two, three = (token[np.maximum(rows - back, 0)] for back in range(3))
    in_turn = (role != NO_ROLE) & (text.template[rows] == CONTENT)
    columns = [
        _code(TOKEN, one),
        np.where(position >= 1, _code(BIGRAM, two << _ID | one), NONE),
        np.where(position >= 2, _code(TRIGRAM, three << 2 * _ID | two << _ID | one), NONE),
        _code(TURN, np.where(role == NO_ROLE, NO_ROLE << _ID, role << _ID | text.template[rows])),
        *(
            np.where(in_turn & (since[rows] <= count), _code(OPENING, role << _ID | count), NONE)
            for count in OPENINGS
        ),
        *(
            np.where(where & (position < count), _code(kind, np.full(len(rows), count)), NONE)
            for kind, where in ((POSITION, text.opens[rows]), (WINDOW, True))
            for count in POSITIONS
        ),
    ]
    return np.stack(columns, axis=1)


def _code(kind: int, payload: np.ndarray) -> np.ndarray:
    return np.int64(kind << _KIND) | payload


def kind_of(feature: Feature) -> Feature:
    """The kind of one feature or of an array of features, as an index in KINDS."""
    return feature >> _KIND


def tokens_of(feature: int) -> list[int]:
    """The token ids of a feature whose kind is one of WORDS, in order."""
    count = NGRAM[feature >> _KIND]
    return [feature >> _ID * place & (1 << _ID) - 1 for place in reversed(range(count))]


def describe(pattern: list[int], decode: Callable[[list[int]], str], on_token: bool) -> str:
    """Put a pattern, a union of features, into words.

    ``on_token``: whether the latent fires on what is named, or else after it.
    """
    first = pattern[0]
    if first >> _KIND in WORDS:
        names = [json.dumps(decode(tokens_of(feature)), ensure_ascii=False) for feature in pattern]
        return ("" if on_token else "after ") + " or ".join(names)
    about, number = first >> _ID & (1 << _ID) - 1, first & (1 << _ID) - 1
    match first >> _KIND:
        case kind if kind in (POSITION, WINDOW):
            whole = "a text" if kind == POSITION else "a window of text"
            return f"the first {'token' if number == 1 else f'{number} tokens'} of {whole}"
        case kind if kind == OPENING:
            return f"the first {'token' if number == 1 else f'{number} tokens'} of {_turn(about)}"
    if about == NO_ROLE:
        return "text outside of chats"
    return f"{TEMPLATE_PARTS[number]} of {_turn(about)}"


def _turn(role: int) -> str:
    article = "an" if ROLES[role] == "assistant" else "a"
    return f"{article} {ROLES[role]}'s turn"
