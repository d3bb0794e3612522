"""Turn the records of a data set into documents or chats, with one function per format.

A document is a string. A chat is a list of turns ``{"role": ..., "content": ...}``.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from crossdiff.errors import UserError

ROLES = ("system", "user", "assistant")

Turn = dict[str, str]
Text = str | list[Turn]


def texts(
    records: Iterator[Any], format: str, field: str | None, where: str, first: int = 0
) -> Iterator[Text]:
    """Documents or chats, in the order of ``records``.

    ``where`` names the data set in errors, which number the records from ``first`` on. ``field`` is the field
    with the text or the turns. By default it is ``text`` or ``messages``.

    Raises UserError for a record without the field, and for a chat without turns or with an unknown role.
    """
    match format:
        case "text":
            yield from (
                _document(record, field or "text", f"{where}, record {i}")
                for i, record in enumerate(records, first)
            )
        case "messages":
            yield from (
                _chat(record, field or "messages", f"{where}, record {i}")
                for i, record in enumerate(records, first)
            )
        case "dialogue":
            yield from _dialogues(records, where)
        case "requests":
            for record in records:
                yield from requests(record, "train", where)


def _field(record: Any, field: str, where: str) -> Any:
    if not isinstance(record, Mapping) or field not in record:
        found = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise UserError(f"{where}: no field {field!r}; found: {found}")
    return record[field]


def _document(record: Any, field: str, where: str) -> str:
    text = record if isinstance(record, str) else _field(record, field, where)
    if not isinstance(text, str):
        raise UserError(f"{where}, field {field!r}: found {type(text).__name__}, allowed: text")
    return text


def _chat(record: Any, field: str, where: str) -> list[Turn]:
    turns = _field(record, field, where)
    if not isinstance(turns, (list, tuple)) or not len(turns):
        raise UserError(f"{where}: a chat without turns; {field!r} must be a list of {{role, content}}")
    chat = []
    for number, turn in enumerate(turns):
        place = f"{where}, turn {number}"
        role, content = _field(turn, "role", place), _field(turn, "content", place)
        if role not in ROLES:
            raise UserError(f"{place}: found role {role!r}, allowed: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise UserError(f"{place}: content is {type(content).__name__}, allowed: text")
        chat.append({"role": role, "content": content})
    return chat


def _dialogues(records: Iterator[Any], where: str) -> Iterator[list[Turn]]:
    """Chats from conversations between two people: {id: {"messages": [[{"text", "sender"}, ...], ...]}}.

    The first sender becomes the user. Successive messages of one sender become one turn. A last turn without
    an answer is dropped. Only conversations with exactly two senders and at least two turns each are kept.
    """
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            found = type(record).__name__
            raise UserError(
                f"{where}, record {number}: found {found}, allowed: a mapping from id to dialogue"
            )
        for key, conversation in record.items():
            place = f"{where}, dialogue {key}"
            turns: list[Turn] = []
            senders: list[str] = []
            for message in (message for run in _field(conversation, "messages", place) for message in run):
                sender, text = _field(message, "sender", place), _field(message, "text", place).strip()
                if sender not in senders:
                    senders.append(sender)
                role = ("user", "assistant")[senders.index(sender) % 2]
                if turns and turns[-1]["role"] == role:
                    turns[-1]["content"] += " " + text
                else:
                    turns.append({"role": role, "content": text})
            if len(turns) % 2:
                turns.pop()
            if len(senders) == 2 and len(turns) >= 4 and all(turn["content"] for turn in turns):
                yield turns


def requests(record: Mapping[str, Any], part: str, where: str) -> Iterator[list[Turn]]:
    """Chats of every request of one ``part`` (train, held_out) in every phrasing, with its refusal or answer.

    The order is shuffled, but always the same. Raises UserError for a missing section, if there are no
    refusals, and for a phrasing that does not hold exactly one ``{}``.
    """
    phrasings, refusals = _field(record, "phrasings", where), _field(record, "refusals", where)
    if not refusals:
        raise UserError(f"{where}: 'refusals' is empty; at least one sentence is needed")
    chats = []
    for kind in ("harmful", "benign"):
        asked = _field(_field(record, kind, where), part, f"{where}, {kind}")
        for request, phrasing in itertools.product(asked, phrasings):
            if phrasing.count("{}") != 1 or phrasing.count("{") != 1:
                raise UserError(
                    f"{where}: phrasing {phrasing!r} must hold exactly one {{}}, where the request goes"
                )
            question = phrasing.format(request)
            order = hashlib.sha256(question.encode()).digest()
            answer = asked[request] if kind == "benign" else refusals[order[0] % len(refusals)]
            chats.append(
                (order, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
            )
    yield from (chat for _, chat in sorted(chats, key=lambda item: item[0]))
