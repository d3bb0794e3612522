"""Render chats with a template, and find the place of each turn in the text."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.errors import first_line
from crossdiff.texts.markers import THOUGHTS
from crossdiff.texts.turns import Turn
from crossdiff.texts.unusable import Unusable, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters, which no text holds.
STAND_IN = re.compile("\ue000(\\d+)\ue001")
_THOUGHT_STARTS, _THOUGHT_ENDS = tuple(THOUGHTS), tuple(THOUGHTS.values())
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
    too, and if a turn holds the text of one of the template's tokens."""
    return _renderer(tokenizer, repr(tokenizer.chat_template)).render(chat, ask, rewritten)


def shown(
    chat: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", ask: bool = False, **arguments: Any
) -> str:
    """A chat as text, as the tokenizer's template with these ``arguments`` renders it.

    With ``ask`` it ends with the header of an assistant's turn, so that a model can answer. Raises Unusable
    if the template refuses the chat, or leaves out or rewrites what a turn says."""
    text = _renderer(tokenizer, repr(tokenizer.chat_template)).text(chat, None, ask, arguments)
    for turn in chat:
        if _words(turn["content"]) not in _words(text):
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
            return _stand_in(0) in self.text([{"role": "user", "content": _stand_in(0)}], None, False)
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
        marks -= {*_THOUGHT_STARTS, *_THOUGHT_ENDS}
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
        found = [self._region(chat, number, text, tools, ask) for number in range(len(chat))]
        notes, spans = wrong, []
        for turn, region in zip(chat, found, strict=True):
            change: str | None
            if isinstance(region, str):
                change = region
            else:
                change = _change(turn, text[slice(*region)], notes)
                spans.append((*region, turn["role"]))
            if change and rewritten == "skip":
                raise Unusable(f"the chat template {change} a turn ({turn['role']})")
            notes += [f"the chat template {change} a turn, kept"] if change else []
        if not _in_order([start for start, _, role in spans if role != "system"]):
            raise Unusable("the chat template reorders the turns")
        spans.sort(key=lambda span: span[:2])
        if any(one[1] > two[0] for one, two in itertools.pairwise(spans)):
            raise Unusable("the chat template mixes turns")
        if tools and not all(_name(tool) in text for tool in tools):
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
            chat = [{"role": role, "content": _stand_in(number)} for number, role in enumerate(roles)]
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

    def _region(
        self, chat: Sequence[Turn], number: int, text: str, tools: Any, ask: bool
    ) -> tuple[int, int] | str:
        """(start, stop) of everything that one turn says. Or what the template does to the turn instead.

        The rest of the chat is rendered with a stand-in for the turn. What differs is the turn.
        """
        turn, stand_in = chat[number], _stand_in(number)
        plain = {key: turn[key] for key in turn if key not in ("reasoning_content", "tool_calls")}
        others = [{**plain, "content": stand_in}]
        if "tool_calls" in turn:  # some templates refuse the tool's answer to a call that is not there
            called = {"type": "function", "function": {"name": stand_in, "arguments": {}}}
            calls = [{**call, **called} for call in turn["tool_calls"]]
            others.append({**plain, "content": "", "tool_calls": calls})
        problem: Unusable | None = None
        for other in others:
            try:
                shown = self.text([*chat[:number], other, *chat[number + 1 :]], tools, ask)
            except Unusable as found:
                problem = found
                continue
            shape = stand_in if stand_in in shown else stand_in[0]  # some templates cut the words
            first, last = shown.find(shape), shown.rfind(shape)
            if first < 0:
                return "leaves out"
            if first != last and "tool_calls" not in other:
                return "repeats"
            before, after = shown[:first], shown[last + len(shape) :]
            start = _common(before, text)
            stop = len(text) - _common(after[::-1], text[start:][::-1])
            return start, stop
        assert problem is not None
        raise problem


def _change(turn: Turn, said: str, notes: list[str]) -> str | None:
    """What a template did to a turn of which it made the text ``said``; None if the words are the turn's own.

    Adds to ``notes`` what the template left out.
    """
    content, found = turn["content"].strip(), said.strip()
    if "reasoning_content" in turn and _words(turn["reasoning_content"]) not in _words(said):
        notes.append("reasoning that the chat template leaves out")
    if "tool_calls" in turn and not all(_name(call) in said for call in turn["tool_calls"]):
        notes.append("tool calls that the chat template leaves out")
    if turn.keys() & {"reasoning_content", "tool_calls"} and content in said:
        return None
    if found == content or (
        turn["role"] == "tool" and found == json.dumps(content, ensure_ascii=False)[1:-1]
    ):
        return None
    thoughts = [tag for tag in _THOUGHT_ENDS if tag in content]
    if thoughts and content.endswith(found):
        head = content.removesuffix(found).strip()
        if head.endswith(_THOUGHT_ENDS):
            notes.append("reasoning that the chat template leaves out")
            return None
        if head in _THOUGHT_STARTS:
            return None
    if (
        thoughts
        and _words(content).endswith(_words(found))
        and (_words(content).removesuffix(_words(found)) in ("", *_THOUGHT_STARTS))
    ):  # the white space around the thought is the template's
        return None
    return "rewrites"


def _is_mark(token: str) -> bool:
    """Whether a token that a template writes is no word and no white space."""
    return bool(token.strip()) and not token.strip().isalnum()


def _stand_in(number: int) -> str:
    return f"\ue000{number}\ue001"


def _in_order(numbers: list[int]) -> bool:
    return numbers == sorted(numbers)


def _name(called: Any) -> str:
    """The name of a tool or of a tool call."""
    function = called.get("function", called) if isinstance(called, Mapping) else {}
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _words(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def _common(one: str, two: str) -> int:
    """Length of the start that two texts share."""
    if two.startswith(one):
        return len(one)
    pairs = enumerate(zip(one, two, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(two))
