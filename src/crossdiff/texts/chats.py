"""Turn documents and chats into tokens. Each token is marked with its turn's role and its template part."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jinja2 import TemplateError

from crossdiff.errors import UserError
from crossdiff.texts.formats import ROLES, Turn

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


def document_sequences(text: str, tokenizer: "PreTrainedTokenizerBase", context: int) -> list[Sequence]:
    """Cut a document into windows of at most ``context`` tokens.

    Each window starts with BOS if the tokenizer adds one.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    size = context - len(bos)
    return [_plain(bos + ids[i : i + size], len(bos)) for i in range(0, len(ids), size)]


def _plain(ids: list[int], n_bos: int) -> Sequence:
    template = np.zeros(len(ids), np.int8)
    template[:n_bos] = HEADER
    return Sequence(np.asarray(ids, np.int32), np.full(len(ids), NO_ROLE, np.int8), template)


def chat_sequence(
    chat: list[Turn], tokenizer: "PreTrainedTokenizerBase", where: str, ask: bool = False
) -> Sequence:
    """Render a chat with the tokenizer's own template, and tokenise it.

    With ``ask`` the sequence ends with the header of an assistant's turn, so that a model can answer.
    ``where`` names the chat in errors. Text outside the contents of the turns belongs to the template.
    Between two contents, the tokens up to and including the first special token end a turn, and the others
    open the next turn. If there is no special token, one token ends the turn.

    Raises UserError if the template refuses the chat, leaves out a turn or changes a content.
    """
    text, spans = _render(chat, tokenizer, where, ask)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(encoded["input_ids"], np.int32)
    offsets = np.asarray(encoded["offset_mapping"]).reshape(-1, 2)
    special = np.isin(ids, tokenizer.all_special_ids)
    role, template = np.empty(len(ids), np.int8), np.full(len(ids), HEADER, np.int8)
    next_token = 0
    # A token with at least one character of the content counts as content.
    firsts = [int(np.searchsorted(offsets[:, 1], start, side="right")) for start, _ in spans]
    for turn, (start, stop), first, limit in zip(chat, spans, firsts, [*firsts[1:], len(ids)], strict=True):
        last = int(np.searchsorted(offsets[:, 0], stop, side="left")) if stop > start else first
        template[first:last] = CONTENT
        # Ends before the next content, because there may be no special token between the two.
        end = last + _turn_end(special[last:limit])
        template[last:end] = TURN_END
        role[next_token:end] = ROLES.index(turn["role"])
        next_token = end
    if ask:
        role[next_token:] = ROLES.index("assistant")
    else:
        role[next_token:], template[next_token:] = ROLES.index(chat[-1]["role"]), TURN_END
    return Sequence(ids, role, template)


def is_answer(role: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Mask of the assistant's words and turn ends, (tokens,) bool."""
    return (role == ROLES.index("assistant")) & (template != HEADER)


def _render(
    chat: list[Turn], tokenizer: "PreTrainedTokenizerBase", where: str, ask: bool
) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text and the character span of each turn's content.

    The template is also rendered with a stand-in for each content. The spans come from there, so that a
    content such as "us" is never mistaken for part of a header.
    """
    contents = [turn["content"] for turn in chat]
    stand_ins = [f"\ue000{number}\ue001" for number in range(len(chat))]
    try:
        text, skeleton = (_templated(chat, given, tokenizer, ask) for given in (contents, stand_ins))
    except TemplateError as error:
        raise UserError(f"{where}: the chat template refuses this chat ({error})") from error
    for used in (contents, [content.strip() for content in contents]):  # some templates trim
        filled, spans = _fill(skeleton, stand_ins, used, where)
        if filled == text:
            return text, spans
    allowed = "only white space at its ends may be trimmed"
    raise UserError(f"{where}: the chat template changes the content of a turn; {allowed}")


def _templated(chat: list[Turn], contents: list[str], tokenizer: "PreTrainedTokenizerBase", ask: bool) -> str:
    """The chat as text, with other contents."""
    turns = [{**turn, "content": content} for turn, content in zip(chat, contents, strict=True)]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))


def _fill(
    skeleton: str, stand_ins: list[str], contents: list[str], where: str
) -> tuple[str, list[tuple[int, int]]]:
    """The skeleton with contents instead of stand-ins, and the character span of each content."""
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
    """Number of tokens that end a turn: those up to the first special token, or one if there is none."""
    found = np.flatnonzero(special)
    return int(found[0]) + 1 if len(found) else min(1, len(special))
