"""Turns of a chat, read from the shapes that data sets have for them."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from crossdiff.texts.unusable import Unusable

# A turn has ``role`` and ``content``, both text. An assistant's turn may have ``reasoning_content`` (text)
# and ``tool_calls`` (a list), a tool's turn ``name`` and ``tool_call_id``.
Turn = dict[str, Any]

ROLE_NAMES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "function_call"),
    "tool": ("tool", "function", "observation", "ipython", "function_response", "tool_response"),
}
_ROLE = {name: role for role, names in ROLE_NAMES.items() for name in names}
_PLAIN, _SPOKEN = {"role", "content"}, ("system", "user", "assistant")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_SYSTEM = ("system", "system_prompt")  # columns next to the turns
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Chat(list[Turn]):
    """The turns of a chat.

    ``tools`` are the tools that the record declares, as JSON schemas. ``read_as`` is the format that was
    recognised, and empty where the config names the format.
    """

    def __init__(self, turns: Iterable[Turn], tools: Any = None, read_as: str = "") -> None:
        super().__init__(turns)
        self.tools, self.read_as = tools, read_as


def chat(turns: Any, record: Mapping[str, Any], where: str = "") -> Chat:
    """A chat from a list of turns. ``record`` may have ``tools``, and ``system`` (or ``system_prompt``) with
    the first turn's text.

    A list may stand as JSON text. Raises Unusable for anything else, and for a chat that says nothing.
    """
    turns = from_json(turns)
    if not isinstance(turns, (list, tuple)) or not turns:
        raise Unusable("a chat without turns", record, where)
    try:
        found = [turn(value) for value in turns]
    except Unusable as problem:
        raise Unusable(problem.reason, record, where) from problem
    if not any(turn["content"].strip() or len(turn) > 2 for turn in found):
        raise Unusable("a chat in which no turn says anything", record, where)
    system = next((text(record, name) for name in _SYSTEM if record.get(name)), "")
    if system.strip() and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": system})
    elif system.strip() not in ("", found[0]["content"].strip()):
        raise Unusable("system text in a column and another one in the first turn", record, where)
    tools = _listed(record.get("tools"), "field 'tools'")
    return Chat(found, without_null(tools) or None)


def text(record: Mapping[str, Any], name: str) -> str:
    """The text in a field. Raises Unusable for other values."""
    value = record[name]
    if not isinstance(value, str):
        raise Unusable(f"field {name!r}: found {type(value).__name__}, allowed: text")
    return value


def _listed(value: Any, what: str) -> list[Any]:
    """A list that may stand as JSON text, or of which there is only one entry. Raises Unusable."""
    value = from_json(value)
    if not value or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"{what}: found {type(value).__name__}, allowed: a list")
    return list(value)


def turn(value: Any) -> Turn:
    """One turn. Role and content may be named ``from`` and ``value``. Raises Unusable."""
    if type(value) is dict and value.keys() == _PLAIN and isinstance(value["content"], str):
        if value["role"] in _SPOKEN:  # as nearly all turns are, and there are millions
            return {"role": value["role"], "content": value["content"]}
    if not isinstance(value, Mapping):
        raise Unusable("a turn that is no {role, content}")
    name = next((value[key] for key in ("role", "from") if value.get(key) is not None), None)
    role = _ROLE.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise Unusable(
            f"a turn with role {str(name)[:30]!r}" if name is not None else "a turn without a role"
        )
    content, thought = _content(
        next((value[key] for key in ("content", "value", "text") if value.get(key) is not None), None)
    )
    calls = _calls(value)
    if isinstance(name, str) and name.strip().lower() == "function_call":
        content, calls = None, [_call(from_json(content))]
    if content is None and not calls:
        raise Unusable("a turn without content")
    reasoning = _reasoning(value, thought)
    for what, said in (("tool calls", calls), ("reasoning", reasoning)):
        if said and role != "assistant":
            raise Unusable(f"{what} in a turn of the role {role}")
    found: Turn = {"role": role, "content": content or ""}
    if role == "assistant":
        found |= {"reasoning_content": reasoning} if reasoning else {}
        found |= {"tool_calls": calls} if calls else {}
    elif role == "tool":
        found |= {key: value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)}
    return found


def _content(value: Any) -> tuple[str | None, str]:
    """The text of a content and the reasoning in it. A list of parts is joined. None for a null.

    Raises Unusable for a part that is no text, and for other values.
    """
    if value is None or isinstance(value, str):
        return value, ""
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"a content that is {type(value).__name__}, not text")
    said: list[str] = []
    thought: list[str] = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            said.append(part["text"])
        elif kind in ("thinking", "reasoning") and isinstance(part.get("thinking", part.get("text")), str):
            thought.append(part.get("thinking", part.get("text")))
        else:
            raise Unusable(f"a content part {str(kind)[:30]!r}, which is no text")
    return ("".join(said) if said else None), "".join(thought)


def _reasoning(value: Mapping[str, Any], thought: str) -> str:
    """The reasoning of a turn, in a field or in its parts (``thought``).

    Raises Unusable for several texts, and for a field that is no text.
    """
    fields = [key for key in _REASONING if value.get(key)]
    found = {thought, *(text(value, key) for key in fields)} - {""}
    if len(found) > 1:
        raise Unusable("a turn with several texts of reasoning")
    return "".join(found)


def _calls(value: Mapping[str, Any]) -> list[Any]:
    """The tool calls of a turn. Arguments that stand as JSON text become values."""
    calls = _listed(value.get("tool_calls"), "tool calls")
    calls = calls or _listed(value.get("function_call"), "a tool call")  # the older name for a single call
    return [_call(call) for call in calls]


def _call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        raise Unusable("a tool call that is no {name, arguments}")
    call = without_null(call)
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call without a name")
    arguments = from_json(function.get("arguments")) or {}
    called = {**{key: function[key] for key in function if key not in ("type", "id")}, "arguments": arguments}
    return {"type": "function", **({"id": call["id"]} if "id" in call else {}), "function": called}


def from_json(value: Any) -> Any:
    """The value of JSON text that holds a list or a mapping. Everything else stays as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def without_null(value: Any) -> Any:
    """A value without the keys whose value is null: Arrow tables fill in every key that any record has."""
    if isinstance(value, Mapping):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def cleaned(value: Any) -> Any:
    """A value with U+FFFD for every lone surrogate, which UTF-8 can't hold. The same object if it has
    none.
    """
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value) if _LONE_SURROGATE.search(value) else value
    if isinstance(value, Mapping):
        found = {cleaned(key): cleaned(inner) for key, inner in value.items()}
        return (
            found if any(a is not b for a, b in zip(found.values(), value.values(), strict=True)) else value
        )
    if isinstance(value, Chat):
        turns, tools = [cleaned(inner) for inner in value], cleaned(value.tools)
        same = tools is value.tools and all(a is b for a, b in zip(turns, value, strict=True))
        return value if same else Chat(turns, tools, value.read_as)
    if isinstance(value, (list, tuple)):
        inner = [cleaned(part) for part in value]
        return inner if any(a is not b for a, b in zip(inner, value, strict=True)) else value
    return value


def merged(found: Chat, system: str, same_role: str) -> tuple[Chat, list[str]]:
    """A chat with system text in the next user turn (``system: merge``), and runs of one role as one turn
    (``same_role: merge``). Merged texts are separated by an empty line. The second value says what was
    merged."""
    turns, notes = list(found), []
    if system == "merge" and any(turn["role"] == "system" for turn in turns):
        says = any(turn["role"] == "system" and turn["content"].strip() for turn in turns)
        notes = ["system text put into the next user turn" if says else "empty system text left out"]
        turns = _system_merged(turns)
    if same_role == "merge":
        joined: list[Turn] = []
        for turn in turns:
            if joined and turn["role"] != "tool" and turn.keys() == joined[-1].keys() == {"role", "content"}:
                if turn["role"] == joined[-1]["role"]:
                    joined[-1] = _before(joined[-1]["content"], turn)
                    continue
            joined.append(turn)
        if len(joined) < len(turns):
            turns, notes = joined, [*notes, "turns of one role in a row made one"]
    return (Chat(turns, found.tools, found.read_as) if notes else found), notes


def _system_merged(turns: list[Turn]) -> list[Turn]:
    kept: list[Turn] = []
    waiting: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            waiting += [turn["content"]] if turn["content"].strip() else []
        elif turn["role"] == "user" and waiting:
            kept.append(_before("\n\n".join(waiting), turn))
            waiting = []
        else:
            kept.append(turn)
    return [*kept, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else kept


def _before(text: str, turn: Turn) -> Turn:
    return {**turn, "content": f"{text}\n\n{turn['content']}"}
