"""Turn documents and chats into tokens. Each token is marked with its turn's role and its template part."""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossdiff.texts.formats import ROLES
from crossdiff.texts.templates import Rendered, render
from crossdiff.texts.turns import Chat, Turn
from crossdiff.texts.unusable import Unusable

if TYPE_CHECKING:
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
    Between two contents, the tokens up to and including the first special token end a turn, and the others
    open the next turn. If there is no special token, one token ends the turn.

    Raises Unusable (a UserError) if the template refuses the chat, leaves out a turn or changes a content.
    """
    try:
        rendered = render(chat, tokenizer, ask)
    except Unusable as problem:
        raise Unusable(problem.reason, chat, where) from problem
    return _tokenised([rendered], tokenizer, ask)[0]


def chat_sequences(
    chats: list[Chat], tokenizer: "PreTrainedTokenizerBase", rewritten: str = "skip"
) -> list[tuple[Sequence, list[str]] | Unusable]:
    """Like ``chat_sequence``, for many chats. Each has its sequence and what the template left out of it.

    An Unusable stands for a chat that can't be used. ``rewritten`` (skip, keep) decides on turns that the
    template rewrites.
    """
    found: list[Rendered | Unusable] = []
    for chat in chats:
        try:
            found.append(render(chat, tokenizer, rewritten=rewritten))
        except Unusable as problem:
            found.append(Unusable(problem.reason, chat))
    rendered = [one for one in found if isinstance(one, Rendered)]
    tokenised = iter(_tokenised(rendered, tokenizer))
    return [one if isinstance(one, Unusable) else (next(tokenised), one.notes) for one in found]


def windows(sequence: Sequence, context: int, bos: int | None) -> list[Sequence]:
    """Cut a chat into windows of at most ``context`` tokens. Each starts with ``bos`` if the chat does."""
    first = 1 if len(sequence.token) and sequence.token[0] == bos else 0
    size = context - first
    return [
        Sequence(*(np.concatenate([column[:first], column[i : i + size]]) for column in sequence))
        for i in range(first, len(sequence.token), size)
    ]


def _tokenised(
    rendered: list[Rendered], tokenizer: "PreTrainedTokenizerBase", ask: bool = False
) -> list[Sequence]:
    """Rendered chats as tokens that are marked with role and template part."""
    if not rendered:
        return []
    encoded = tokenizer(
        [one.text for one in rendered],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    special = np.asarray(tokenizer.all_special_ids, np.int32)
    return [
        _marked(one.spans, np.asarray(ids, np.int32), _pairs(offsets), special, ask)
        for one, ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _pairs(offsets: list[tuple[int, int]]) -> np.ndarray:
    """Offsets as an array (2, tokens): faster than numpy's own way for a list of pairs."""
    return np.fromiter(itertools.chain.from_iterable(offsets), np.int64, 2 * len(offsets)).reshape(-1, 2).T


def _marked(
    spans: list[tuple[int, int, str]], ids: np.ndarray, offsets: np.ndarray, special: np.ndarray, ask: bool
) -> Sequence:
    """Tokens with their roles and template parts. ``offsets`` (2, tokens) are places in the text."""
    is_special = np.isin(ids, special)
    role, template = np.empty(len(ids), np.int8), np.full(len(ids), HEADER, np.int8)
    next_token, speaker = 0, "user"
    # A token with at least one character of the content counts as content.
    firsts = [int(np.searchsorted(offsets[1], start, side="right")) for start, _, _ in spans]
    limits = [*firsts[1:], len(ids)]
    for (start, stop, speaker), first, limit in zip(spans, firsts, limits, strict=True):
        last = int(np.searchsorted(offsets[0], stop, side="left")) if stop > start else first
        template[first:last] = CONTENT
        # Ends before the next content, because there may be no special token between the two.
        end = last + _turn_end(is_special[last:limit])
        template[last:end] = TURN_END
        role[next_token:end] = _code(speaker)
        next_token = end
    if ask:
        role[next_token:] = _code("assistant")
    else:
        role[next_token:], template[next_token:] = _code(speaker), TURN_END
    return Sequence(ids, role, template)


def _code(speaker: str) -> int:
    """The code of a role. A tool's turn counts as the user's."""
    return ROLES.index("user" if speaker == "tool" else speaker)


def is_answer(role: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Mask of the assistant's words and turn ends, (tokens,) bool."""
    return (role == ROLES.index("assistant")) & (template != HEADER)


def _turn_end(special: np.ndarray) -> int:
    """Number of tokens that end a turn: those up to the first special token, or one if there is none."""
    found = np.flatnonzero(special)
    return int(found[0]) + 1 if len(found) else min(1, len(special))
