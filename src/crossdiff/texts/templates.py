"""Render chats with a template, and find the place of each turn in the text."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.errors import first_line
from crossdiff.texts.markers import THOUGHTS
from crossdiff.texts.turns import Turn
from crossdiff.texts.unusable import Unusable, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Noncharacters, which Unicode keeps for a program's own use. Fonts of icons use private-use characters.
STAND_IN = re.compile("\ufdd0(\\d+)\ufdd1")
_THOUGHT_STARTS, _THOUGHT_ENDS = tuple(THOUGHTS), tuple(THOUGHTS.values())
_END_OF_THOUGHT = re.compile("|".join(map(re.escape, _THOUGHT_ENDS)))
_MORE = {"reasoning_content", "tool_calls"}  # what a turn may say apart from its content
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
        notes, spans = wrong, []
        change: str | None
        for number, turn in enumerate(chat):
            shown = partial(self._shown, chat, number, tools, ask)
            region, change = _region(turn, shown, text), None
            if isinstance(region, str):
                change = region
            else:
                spans.append((*region, turn["role"]))
                said = text[slice(*region)]
                if turn.keys() & _MORE:
                    notes += _left_out(turn, shown, said)
                    change, said = _content(turn, shown, text)
                change = change or _change(turn, said, notes)
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

    def _shown(self, chat: Sequence[Turn], number: int, tools: Any, ask: bool, other: Turn) -> str:
        """The text of the chat with an ``other`` turn in the place of one."""
        return self.text([*chat[:number], other, *chat[number + 1 :]], tools, ask)


Shown = Callable[[Turn], str]  # the text of a chat with another turn in the place of one


def _region(turn: Turn, shown: Shown, text: str) -> tuple[int, int] | str:
    """(start, stop) of everything that one turn says. Or what the template does to the turn instead.

    The rest of the chat is rendered with a stand-in for the turn. What differs is the turn.
    """
    plain = {key: turn[key] for key in turn if key not in _MORE}
    others = [{**plain, "content": _stand_in(0)}]
    if "tool_calls" in turn:  # some templates refuse the tool's answer to a call that is not there
        called = {"type": "function", "function": {"name": _stand_in(0), "arguments": {}}}
        calls = [{**call, **called} for call in turn["tool_calls"]]
        others.append({**plain, "content": "", "tool_calls": calls})
    problem: Unusable | None = None
    for other in others:
        try:
            return _place(shown(other), text, often="tool_calls" in other)
        except Unusable as found:
            problem = found
    assert problem is not None
    raise problem


def _content(turn: Turn, shown: Shown, text: str) -> tuple[str | None, str]:
    """What the template does to the content of a turn that also says something else, and its text."""
    if not turn["content"].strip():
        return None, turn["content"]
    place = _place(shown({**turn, "content": _stand_in(0)}), text)
    if isinstance(place, str):
        return "rewrites" if place == "leaves out" else place, ""
    return None, text[slice(*place)]


def _left_out(turn: Turn, shown: Shown, said: str) -> Iterator[str]:
    """Tells of reasoning and tool calls that are missing in ``said``, the text of the turn."""
    if reasoning := turn.get("reasoning_content"):
        other = {**turn, "reasoning_content": _stand_in(0)}
        if _words(reasoning) not in _words(said) or not _shows([_stand_in(0)], shown, other):
            yield "reasoning that the chat template leaves out"
    if calls := turn.get("tool_calls"):
        names = [_stand_in(number) for number in range(len(calls))]
        named = [_with(call, "name", name) for call, name in zip(calls, names, strict=True)]
        # A plain word, because a template may write arguments as JSON or as Python.
        values = [f"argument{number}value" for number in range(len(calls))]
        given = [_with(call, "arguments", {word: word}) for call, word in zip(calls, values, strict=True)]
        if not _shows(names, shown, {**turn, "tool_calls": named}):
            yield "tool calls that the chat template leaves out"
        elif not _shows(values, shown, {**turn, "tool_calls": given}):
            if any(call["function"]["arguments"] for call in calls):
                yield "arguments of tool calls that the chat template leaves out"


def _with(call: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A tool call with another name or other arguments."""
    return {**call, "function": {**call["function"], key: value}}


def _shows(stand_ins: list[str], shown: Shown, other: Turn) -> bool:
    """Whether all ``stand_ins`` of an ``other`` turn are in the text. A template that refuses them has read
    them.
    """
    try:
        text = shown(other)
    except Unusable:
        return True
    return all(stand_in in text for stand_in in stand_ins)


def _place(shown: str, text: str, often: bool = False) -> tuple[int, int] | str:
    """(start, stop) in ``text`` of what has the place of the stand-in in ``shown``, an otherwise equal text.

    Or what the template does to it instead. With ``often`` the stand-in may stand in several places.
    """
    shape = _stand_in(0) if _stand_in(0) in shown else _stand_in(0)[0]  # some templates cut the words
    first, last = shown.find(shape), shown.rfind(shape)
    if first < 0:
        return "leaves out"
    if first != last and not often:
        return "repeats"
    before, after = shown[:first], shown[last + len(shape) :]
    start = _common(before, text)
    return start, len(text) - _common(after[::-1], text[start:][::-1])


def _change(turn: Turn, said: str, notes: list[str]) -> str | None:
    """What a template did to a turn whose content became ``said``. None if the words are the turn's own.

    Adds to ``notes`` what the template left out.
    """
    content, found = turn["content"].strip(), said.strip()
    if found == content or (
        turn["role"] == "tool" and found == json.dumps(content, ensure_ascii=False)[1:-1]
    ):
        return None
    thoughts = [tag for tag in _THOUGHT_ENDS if tag in content]
    if thoughts and content.endswith(found):
        head = content.removesuffix(found).strip()
        if _is_thought(head):
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


def _is_thought(text: str) -> bool:
    """Whether a text is one thought or several in a row, and nothing else.

    The first one may lack its start, because some templates write that into the prompt.
    """
    *thoughts, after = _END_OF_THOUGHT.split(text)
    first = thoughts[0].strip() if thoughts else ""
    begun = first.startswith(_THOUGHT_STARTS) or not any(start in first for start in _THOUGHT_STARTS)
    others = all(thought.strip().startswith(_THOUGHT_STARTS) for thought in thoughts[1:])
    return bool(thoughts) and not after.strip() and begun and others


def _is_mark(token: str) -> bool:
    """Whether a token that a template writes is no word and no white space."""
    return bool(token.strip()) and not token.strip().isalnum()


def _stand_in(number: int) -> str:
    return f"\ufdd0{number}\ufdd1"


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
