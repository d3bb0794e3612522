"""Chats as tokens: rendered with a chat template, every token marked with its turn's role and its template part."""

from typing import NamedTuple

import numpy as np
from jinja2 import TemplateError

from crossdiff.errors import UserError
from crossdiff.texts.formats import ROLES, Turn

# Codes of the role and template-part columns of a token shard.
NO_ROLE = len(ROLES)
CONTENT, HEADER, TURN_END = 0, 1, 2
TEMPLATE_PARTS = ("content", "header", "turn end")


class Sequence(NamedTuple):
    """One sequence of tokens, arrays of equal length."""

    token: np.ndarray  # int32 ids
    role: np.ndarray  # int8, index into formats.ROLES or NO_ROLE
    template: np.ndarray  # int8: CONTENT, HEADER or TURN_END


def document_sequences(text: str, tokenizer, context: int) -> list[Sequence]:
    """A document in windows of at most ``context`` tokens; each starts with BOS where the tokenizer adds one."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    size = context - len(bos)
    return [_plain(bos + ids[i : i + size], len(bos)) for i in range(0, len(ids), size)]


def _plain(ids: list[int], n_bos: int) -> Sequence:
    template = np.zeros(len(ids), np.int8)
    template[:n_bos] = HEADER
    return Sequence(np.asarray(ids, np.int32), np.full(len(ids), NO_ROLE, np.int8), template)


def chat_sequence(chat: list[Turn], tokenizer, where: str, ask: bool = False) -> Sequence:
    """A chat through the tokenizer's own template; with ``ask`` it ends in the header of an assistant's turn, for a model to go on from.

    Text outside the turns' contents is template: between two contents, tokens up to and including the first special token (or one,
    if there is none) end a turn, the rest opens the next. Raises UserError when the template alters a content.
    """
    text, spans = _render(chat, tokenizer, where, ask)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = (
        np.asarray(encoded["input_ids"], np.int32),
        np.asarray(encoded["offset_mapping"]).reshape(-1, 2),
    )
    special = np.isin(ids, tokenizer.all_special_ids)
    role, template = np.empty(len(ids), np.int8), np.full(len(ids), HEADER, np.int8)
    next_token = 0
    # Tokens that hold at least one character of the content: a token across the border counts as content.
    firsts = [int(np.searchsorted(offsets[:, 1], start, side="right")) for start, _ in spans]
    for turn, (start, stop), first, limit in zip(chat, spans, firsts, [*firsts[1:], len(ids)], strict=True):
        last = int(np.searchsorted(offsets[:, 0], stop, side="left")) if stop > start else first
        template[first:last] = CONTENT
        end = last + _turn_end(
            special[last:limit]
        )  # not past the next content: between the two there may be no special token
        template[last:end] = TURN_END
        role[next_token:end] = ROLES.index(turn["role"])
        next_token = end
    if ask:
        role[next_token:] = ROLES.index("assistant")
    else:
        role[next_token:], template[next_token:] = ROLES.index(chat[-1]["role"]), TURN_END
    return Sequence(ids, role, template)


def is_answer(role: np.ndarray, template: np.ndarray) -> np.ndarray:
    """(tokens,) bool: the assistant's words and turn ends."""
    return (role == ROLES.index("assistant")) & (template != HEADER)


def _render(chat: list[Turn], tokenizer, where: str, ask: bool) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text and the character span of each turn's content.

    The template is rendered once with a stand-in for each content: a content such as "us" can't be mistaken for part of a header.
    """
    stand_ins = [f"\ue000{number}\ue001" for number in range(len(chat))]
    try:
        text, skeleton = (
            tokenizer.apply_chat_template(
                [{**turn, "content": content} for turn, content in zip(chat, contents, strict=True)],
                tokenize=False,
                add_generation_prompt=ask,
            )
            for contents in ([turn["content"] for turn in chat], stand_ins)
        )
    except TemplateError as error:
        raise UserError(f"{where}: the chat template refuses this chat ({error})") from error
    for contents in (
        [turn["content"] for turn in chat],
        [turn["content"].strip() for turn in chat],
    ):  # some templates trim
        filled, spans = _fill(skeleton, stand_ins, contents, where)
        if filled == text:
            return text, spans
    raise UserError(
        f"{where}: the chat template changes the content of a turn; only white space at its ends may be trimmed"
    )


def _fill(
    skeleton: str, stand_ins: list[str], contents: list[str], where: str
) -> tuple[str, list[tuple[int, int]]]:
    text, spans = "", []
    for content, stand_in in zip(contents, stand_ins, strict=True):
        before, found, skeleton = skeleton.partition(stand_in)
        if not found:
            raise UserError(f"{where}: the chat template leaves out a turn")
        start = len(text) + len(before)
        text += before + content
        spans.append((start, start + len(content)))
    return text + skeleton, spans


def _turn_end(special: np.ndarray) -> int:
    """Number of tokens that close a turn: up to the first special token, else one."""
    found = np.flatnonzero(special)
    return int(found[0]) + 1 if len(found) else min(1, len(special))
