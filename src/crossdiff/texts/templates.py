"""Render chats with a template, and find the place of each turn in the text."""

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.errors import first_line
from crossdiff.texts.changes import STAND_IN, THOUGHT_ENDS, THOUGHT_STARTS, name_of, stand_in, trace, words
from crossdiff.texts.turns import Turn
from crossdiff.texts.unusable import Unusable, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SKELETONS = 4096  # kept, one for each order of roles


class Rendered(NamedTuple):
    """A chat as text. Each span is (start, stop, role) of what one turn says, in the order of the text."""

    text: str
    spans: list[tuple[int, int, str]]
    notes: list[str]  # what the template left out or changed


def render(
    chat: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", ask: bool = False, rewritten: str = "skip"
) -> Rendered:
    """Render a chat with the tokenizer's template and find what each turn says.

    Turns may be trimmed and moved. What else a template does to a turn is decided by ``rewritten``: skip
    raises Unusable, keep marks what became of the turn. Raises Unusable if the template refuses the chat,
    too, if it repeats a turn or shows none, and if a turn holds the text of one of the template's tokens."""
    return _renderer(tokenizer, repr(tokenizer.chat_template)).render(chat, ask, rewritten)


def shown(
    chat: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", ask: bool = False, **arguments: Any
) -> str:
    """A chat as text, as the tokenizer's template with these ``arguments`` renders it.

    With ``ask`` it ends with the header of an assistant's turn, so that a model can answer. Raises Unusable
    if the template refuses the chat, or leaves out or rewrites what a turn says."""
    text = _renderer(tokenizer, repr(tokenizer.chat_template)).text(chat, None, ask, arguments)
    for turn in chat:
        if words(turn["content"]) not in words(text):
            raise Unusable(f"the chat template leaves out or rewrites a turn ({turn['role']})")
    return text


@lru_cache(maxsize=8)
def _renderer(tokenizer: "PreTrainedTokenizerBase", template: str) -> "_Renderer":
    return _Renderer(tokenizer)


class _Renderer:
    """Renders chats with one template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._skeletons: dict[Any, tuple[list[str], list[int]] | None] = {}
        self._parts = False
        self._parts = not self._shows_content() and self._shows_content(parts=True)
        self._marks = self._template_marks()

    def _shows_content(self, parts: bool = False) -> bool:
        """Whether a user's words are in the text. Some templates read contents as lists of parts alone."""
        self._parts = parts
        try:
            return stand_in(0) in self.text([{"role": "user", "content": stand_in(0)}], None, False)
        except Unusable:
            return False

    def _template_marks(self) -> re.Pattern[str]:
        """Texts that become tokens of the template's: special tokens, and what it writes around turns.

        Those that enclose a thought are left out, because answers have them.
        """
        added = self._tokenizer.added_tokens_decoder.values()
        skeleton = self._skeleton(("user", "assistant", "user"), False)
        written = "".join(skeleton[0]) if skeleton else ""
        marks = {token.content for token in added if token.special}
        marks |= {token.content for token in added if token.content in written and _is_mark(token.content)}
        marks -= {*THOUGHT_STARTS, *THOUGHT_ENDS}
        return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")

    def _said_marks(self, chat: Sequence[Turn]) -> list[str]:
        """Says which turn, if any, holds text that the model would read as the template's."""
        for turn in chat:
            said = [turn["content"], turn.get("reasoning_content", "")]
            said += [as_text(turn["tool_calls"])] if "tool_calls" in turn else []
            if found := next(filter(None, map(self._marks.search, said)), None):
                return [f"a turn that says {found[0]!r}, which is a token of the template"]
        return []

    def render(self, chat: Sequence[Turn], ask: bool, rewritten: str) -> Rendered:
        wrong = self._said_marks(chat)
        if wrong and rewritten == "skip":
            raise Unusable(wrong[0])
        tools = getattr(chat, "tools", None)
        text = self.text(chat, tools, ask)
        if tools is None and all(len(turn) == 2 for turn in chat):
            spans = self._filled(text, chat, ask)
            if spans is not None:
                return Rendered(text, spans, wrong)
        notes, spans = wrong, []
        for number, turn in enumerate(chat):
            shown = partial(self._shown, chat, number, tools, ask)
            traced = trace(turn, shown, text)
            spans += [(*traced.place, turn["role"])] if traced.place else []
            notes += traced.notes
            change = traced.change
            if change and (rewritten == "skip" or change == "repeats"):
                raise Unusable(f"the chat template {change} a turn ({turn['role']})")
            notes += [f"the chat template {change} a turn, kept"] if change else []
        if not spans:
            raise Unusable("the chat template leaves out every turn")
        if not _in_order([start for start, _, role in spans if role != "system"]):
            raise Unusable("the chat template reorders the turns")
        spans.sort(key=lambda span: span[:2])
        if any(one[1] > two[0] for one, two in itertools.pairwise(spans)):
            raise Unusable("the chat template mixes turns")
        if tools and not all(name_of(tool) in text for tool in tools):
            notes.append("tools that the chat template leaves out")
        return Rendered(text, spans, sorted(set(notes)))

    def text(
        self, chat: Sequence[Turn], tools: Any, ask: bool, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """The chat as the template renders it. Raises Unusable if the template refuses it."""
        if self._parts:
            chat = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in chat]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(chat), tools=tools, tokenize=False, add_generation_prompt=ask, **(arguments or {})
                )
            )
        except Exception as error:  # a template is a program, and fails in as many ways
            raise Unusable(f"the chat template refuses this chat ({first_line(error)[:120]})") from error

    def _filled(self, text: str, chat: Sequence[Turn], ask: bool) -> list[tuple[int, int, str]] | None:
        """The spans of turns that are at most moved, and trimmed at their ends. None for other templates.

        The template is also rendered with a stand-in for each content. The spans come from there, so that a
        content such as "us" is never mistaken for part of a header.
        """
        skeleton = self._skeleton(tuple(turn["role"] for turn in chat), ask)
        if skeleton is None:
            return None
        pieces, order = skeleton
        # Position -> the spans before it, the last one first.
        at: dict[int, Any] = {len(pieces[0]): None} if text.startswith(pieces[0]) else {}
        for number, piece in zip(order, pieces[1:], strict=True):
            content = chat[number]["content"]
            after: dict[int, Any] = {}
            for used in dict.fromkeys((content, content.strip(), content.rstrip(), content.lstrip())):
                for start, before in at.items():
                    stop = start + len(used)
                    if text.startswith(used, start) and text.startswith(piece, stop):
                        after.setdefault(stop + len(piece), (before, (start, stop, chat[number]["role"])))
            at = after
        spans, last = [], at.get(len(text))
        while last is not None:
            last, span = last
            spans.append(span)
        return spans[::-1] if len(spans) == len(chat) else None

    def _skeleton(self, roles: tuple[str, ...], ask: bool) -> tuple[list[str], list[int]] | None:
        """The text between the contents of such turns, and the turns in the order of the text."""
        key = (roles, ask)
        if key not in self._skeletons:
            chat = [{"role": role, "content": stand_in(number)} for number, role in enumerate(roles)]
            try:
                parts = STAND_IN.split(self.text(chat, None, ask))
            except Unusable:
                parts = []
            order = [int(number) for number in parts[1::2]]
            if len(self._skeletons) >= SKELETONS:
                self._skeletons.clear()
            once = sorted(order) == list(range(len(roles))) and _in_order(
                [number for number in order if roles[number] != "system"]
            )
            self._skeletons[key] = (parts[::2], order) if once else None
        return self._skeletons[key]

    def _shown(self, chat: Sequence[Turn], number: int, tools: Any, ask: bool, other: Turn) -> str:
        """The text of the chat with an ``other`` turn in the place of one."""
        return self.text([*chat[:number], other, *chat[number + 1 :]], tools, ask)


def _is_mark(token: str) -> bool:
    """Whether a token that a template writes is no word and no white space."""
    return bool(token.strip()) and not token.strip().isalnum()


def _in_order(numbers: list[int]) -> bool:
    return numbers == sorted(numbers)
