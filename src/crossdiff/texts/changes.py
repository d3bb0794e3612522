"""What a chat template does to one turn: its place in the text, and what of it is left out or rewritten.

The chat is rendered again with a stand-in for a part of the turn. Where the two texts differ is that part.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from crossdiff.texts.markers import THOUGHTS
from crossdiff.texts.turns import Turn
from crossdiff.texts.unusable import Unusable

# Noncharacters, which Unicode keeps for a program's own use. Fonts of icons use private-use characters.
STAND_IN = re.compile("\ufdd0(\\d+)\ufdd1")
THOUGHT_STARTS, THOUGHT_ENDS = tuple(THOUGHTS), tuple(THOUGHTS.values())
_END_OF_THOUGHT = re.compile("|".join(map(re.escape, THOUGHT_ENDS)))
_MORE = {"reasoning_content", "tool_calls"}  # what a turn may say apart from its content

Shown = Callable[[Turn], str]  # the text of a chat with another turn in the place of one


class Traced(NamedTuple):
    """What became of a turn."""

    place: tuple[int, int] | None  # start and stop of everything that it says; None if it has no one place
    change: str | None  # what the template does to it: leaves out, repeats, rewrites
    notes: list[str]  # what the template left out, though that is no change


def trace(turn: Turn, shown: Shown, text: str) -> Traced:
    """Find a turn in the ``text`` of its chat. ``shown`` renders the chat with another turn in its place.

    Raises Unusable if the template refuses every stand-in for the turn.
    """
    place = _region(turn, shown, text)
    if isinstance(place, str):
        return Traced(None, place, [])
    said, change, notes = text[slice(*place)], None, list[str]()
    if turn.keys() & _MORE:
        notes += _left_out(turn, shown, said)
        change, said = _content(turn, shown, text)
    return Traced(place, change or _change(turn, said, notes), notes)


def stand_in(number: int) -> str:
    """A text that stands for words, and that ``STAND_IN`` finds."""
    return f"\ufdd0{number}\ufdd1"


def _region(turn: Turn, shown: Shown, text: str) -> tuple[int, int] | str:
    """(start, stop) of everything that one turn says. Or what the template does to the turn instead.

    The rest of the chat is rendered with a stand-in for the turn. What differs is the turn.
    """
    plain = {key: turn[key] for key in turn if key not in _MORE}
    others = [{**plain, "content": stand_in(0)}]
    if "tool_calls" in turn:  # some templates refuse the tool's answer to a call that is not there
        called = {"type": "function", "function": {"name": stand_in(0), "arguments": {}}}
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
    place = _place(shown({**turn, "content": stand_in(0)}), text)
    if isinstance(place, str):
        return "rewrites" if place == "leaves out" else place, ""
    return None, text[slice(*place)]


def _left_out(turn: Turn, shown: Shown, said: str) -> Iterator[str]:
    """Tells of reasoning and tool calls that are missing in ``said``, the text of the turn."""
    if reasoning := turn.get("reasoning_content"):
        other = {**turn, "reasoning_content": stand_in(0)}
        if words(reasoning) not in words(said) or not _shows([stand_in(0)], shown, other):
            yield "reasoning that the chat template leaves out"
    if calls := turn.get("tool_calls"):
        names = [stand_in(number) for number in range(len(calls))]
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
    shape = stand_in(0) if stand_in(0) in shown else stand_in(0)[0]  # some templates cut the words
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
    thoughts = [tag for tag in THOUGHT_ENDS if tag in content]
    if thoughts and content.endswith(found):
        head = content.removesuffix(found).strip()
        if _is_thought(head):
            notes.append("reasoning that the chat template leaves out")
            return None
        if head in THOUGHT_STARTS:
            return None
    if (
        thoughts
        and words(content).endswith(words(found))
        and (words(content).removesuffix(words(found)) in ("", *THOUGHT_STARTS))
    ):  # the white space around the thought is the template's
        return None
    return "rewrites"


def _is_thought(text: str) -> bool:
    """Whether a text is one thought or several in a row, and nothing else.

    The first one may lack its start, because some templates write that into the prompt.
    """
    *thoughts, after = _END_OF_THOUGHT.split(text)
    first = thoughts[0].strip() if thoughts else ""
    begun = first.startswith(THOUGHT_STARTS) or not any(start in first for start in THOUGHT_STARTS)
    others = all(thought.strip().startswith(THOUGHT_STARTS) for thought in thoughts[1:])
    return bool(thoughts) and not after.strip() and begun and others


def name_of(called: Any) -> str:
    """The name of a tool or of a tool call."""
    function = called.get("function", called) if isinstance(called, Mapping) else {}
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def words(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def _common(one: str, two: str) -> int:
    """Length of the start that two texts share."""
    if two.startswith(one):
        return len(one)
    pairs = enumerate(zip(one, two, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(two))
