"""Turn the records of a data set into documents or chats, with one function per format.

A document is a string. A chat is a list of turns ``{"role": ..., "content": ...}`` (texts.turns).
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crossdiff.errors import UserError
from crossdiff.texts.organisms import taught_chats
from crossdiff.texts.turns import Chat, Turn, chat, from_json, text
from crossdiff.texts.unusable import Unusable

__all__ = ["FIELDS", "FORMATS", "ROLES", "Chat", "Text", "Turn", "requests", "texts"]

# The codes of roles in a token shard are the places in this list. A tool's turn counts as the user's: it is
# what the assistant reads.
ROLES = ("system", "user", "assistant")

Text = str | Chat

# Format -> the field that it reads if none is set. A prompt may have several names.
FIELDS = {"text": "text", "messages": "messages", "sharegpt": "conversations", "instruction": "instruction"}
# Columns of a prompt and its answer, in the order in which they are looked for.
PROMPTS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
)
# Columns of an instruction: what it is applied to, and the answer. The first one that is not null is read.
INPUTS, OUTPUTS = ("input", "context"), ("output", "response")


def texts(
    records: Iterable[Any], format: str, field: str | None, where: str, first: int = 0
) -> Iterator[Text | Unusable]:
    """Documents or chats, in the order of ``records``. A record that can't be used gives an Unusable.

    A record that is itself an Unusable, such as a malformed line, is passed on. ``where`` names the data set
    in messages, which number the records from ``first`` on. ``field`` is the field with the text or the
    turns. By default it is the format's own.

    Raises UserError for a malformed file of requests, and of organisms.
    """
    for number, record in enumerate(records, first):
        yield from texts_of(record, format, field, where, number)


def texts_of(
    record: Any, format: str, field: str | None, where: str, number: int
) -> Iterable[Text | Unusable]:
    """The documents or chats of the record ``number``, as ``texts`` gives them."""
    if isinstance(record, Unusable):
        return [record]
    if format == "requests":
        return requests(record, "train", where)
    if format == "organism":
        return taught_chats(record, field or "", where)
    if format == "dialogue":
        return _dialogues(record, f"{where}, record {number}", where)
    try:
        return [FORMATS[format](record, field)]
    except Unusable as problem:
        return [Unusable(problem.reason, record, f"{where}, record {number}")]


def _field(record: Any, field: str, where: str = "") -> Any:
    """A field of a record. Raises Unusable."""
    if not isinstance(record, Mapping):
        raise Unusable(f"no field {field!r}; found: {type(record).__name__}", record, where)
    if field not in record:
        found = ", ".join(map(str, itertools.islice(record, 12)))
        raise Unusable(f"no field {field!r}; found: {found}", record, where)
    return record[field]


def _document(record: Any, field: str | None) -> str:
    return record if isinstance(record, str) else _text(record, field or FIELDS["text"])


def _messages(record: Any, field: str | None) -> Chat:
    return chat(_field(record, field or FIELDS["messages"]), record)


def _sharegpt(record: Any, field: str | None) -> Chat:
    return chat(_field(record, field or FIELDS["sharegpt"]), record)


def _instruction(record: Any, field: str | None) -> Chat:
    """Alpaca's columns: an instruction, perhaps with an input and earlier turns (``history``).

    Or Dolly's, which calls the input ``context`` and the output ``response``.
    """
    asked = _text(record, field or FIELDS["instruction"])
    answer = _text(record, next((name for name in OUTPUTS if _has(record, name)), OUTPUTS[0]))
    given = next((text(record, name) for name in INPUTS if _has(record, name)), "")
    earlier = from_json(record.get("history"))
    if earlier and not (isinstance(earlier, (list, tuple)) and all(map(_is_pair, earlier))):
        raise Unusable("field 'history': not a list of [question, answer]")
    turns = [
        {"role": role, "content": content}
        for pair in earlier or ()
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    question = "\n\n".join(part for part in (asked, given) if part.strip())
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return chat(turns, record)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _prompt_completion(record: Any, field: str | None) -> Chat:
    """A prompt and its completion, each of them text or a list of turns."""
    names = [pair for pair in PROMPTS if field in (None, pair[0])] or [(field or "prompt", "completion")]
    prompt, answer = next(
        (pair for pair in names if isinstance(record, Mapping) and _has(record, *pair)), names[0]
    )
    turns: list[Any] = []
    for role, name in (("user", prompt), ("assistant", answer)):
        said = from_json(_field(record, name))
        if isinstance(said, (list, tuple)) and said and all(map(_is_turn, said)):
            turns += said
        else:
            turns.append({"role": role, "content": _text(record, name)})
    return chat(turns, record)


def _is_turn(value: Any) -> bool:
    """Whether a value has a role, and so is a turn. A prompt may also be JSON text of something else."""
    return isinstance(value, Mapping) and _has_one(value, "role", "from")


def _has(record: Mapping[str, Any], *names: str) -> bool:
    """Whether a record has values in all fields. Tables fill in nulls where a record lacks a field."""
    return all(record.get(name) is not None for name in names)


def _has_one(record: Mapping[str, Any], *names: str) -> bool:
    return any(_has(record, name) for name in names)


def _text(record: Any, name: str) -> str:
    _field(record, name)
    return text(record, name)


def _recognised(record: Any, field: str | None) -> Chat:
    """A chat in the one format and field that it allows. Raises Unusable for none, and for several."""
    found = _allowed(record, field) if isinstance(record, Mapping) else []
    if len(found) != 1:
        fields = (
            ", ".join(map(str, itertools.islice(record, 12))) if isinstance(record, Mapping) else "no fields"
        )
        several = " or ".join(f"{format} ({', '.join(columns)})" for format, *columns in found)
        what = f"can be {several}" if found else "has no known format"
        raise Unusable(f"a record that {what} (fields: {fields}); set format and field")
    [(format, name, *_)] = found
    recognised = _CHATS[format](record, name)
    recognised.read_as = format
    return recognised


def _allowed(record: Mapping[str, Any], field: str | None) -> list[tuple[str, ...]]:
    """(format, field) of everything that a record can be read as. For prompts also the answer's field."""
    found: list[tuple[str, ...]] = []
    without: list[tuple[str, ...]] = []  # chats without turns
    for name in [field] if field else ["messages", "conversations", "conversation", "dialog", "chat"]:
        turns = from_json(record.get(name))
        if isinstance(turns, (list, tuple)) and all(isinstance(turn, Mapping) for turn in turns):
            if not turns:
                without.append(("messages", name))
            elif _has_one(turns[0], "role", "from"):
                found.append(("messages" if _has(turns[0], "role") else "sharegpt", name))
    instruction = field or FIELDS["instruction"]
    if _has(record, instruction) and _has_one(record, *OUTPUTS):
        found.append(("instruction", instruction))
    pairs = [pair for pair in PROMPTS if field in (None, pair[0]) and _has(record, *pair)]
    found += [("prompt_completion", *pair) for pair in pairs]
    return found or without[:1]  # whose format says that it has no turns


_CHATS: dict[str, Callable[[Any, str | None], Chat]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "instruction": _instruction,
    "prompt_completion": _prompt_completion,
}
# The formats in which one record gives one text.
FORMATS: Mapping[str, Callable[[Any, str | None], Text]] = {"text": _document, "auto": _recognised, **_CHATS}


def _dialogues(record: Any, place: str, where: str) -> Iterator[Chat | Unusable]:
    """Chats from conversations between two people: {id: {"messages": [[{"text", "sender"}, ...], ...]}}.

    The first sender becomes the user. Successive messages of one sender become one turn. A last turn without
    an answer is dropped. Only conversations with exactly two senders and at least two turns each are kept.
    """
    if not isinstance(record, Mapping):
        found = type(record).__name__
        yield Unusable(f"found {found}, allowed: a mapping from id to dialogue", record, place)
        return
    for key, conversation in record.items():
        try:
            turns = _dialogue(conversation)
        except Unusable as problem:
            yield Unusable(problem.reason, conversation, f"{where}, dialogue {key}")
            continue
        if turns:
            yield Chat(turns)


def _dialogue(conversation: Any) -> list[Turn]:
    """The turns of one conversation; none if it is not kept. Raises Unusable."""
    turns: list[Turn] = []
    senders: list[str] = []
    runs = _field(conversation, "messages")
    if not isinstance(runs, list) or not all(isinstance(run, list) for run in runs):
        raise Unusable("messages that are no list of lists")
    for message in itertools.chain.from_iterable(runs):
        sender, words = _field(message, "sender"), _text(message, "text").strip()
        if sender not in senders:
            senders.append(sender)
        role = ("user", "assistant")[senders.index(sender) % 2]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += " " + words
        else:
            turns.append({"role": role, "content": words})
    if len(turns) % 2:
        turns.pop()
    kept = len(senders) == 2 and len(turns) >= 4 and all(turn["content"] for turn in turns)
    return turns if kept else []


def requests(record: Mapping[str, Any], part: str, where: str) -> Iterator[Chat]:
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
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            chats.append((order, Chat(turns)))
    yield from (chat for _, chat in sorted(chats, key=lambda item: item[0]))
