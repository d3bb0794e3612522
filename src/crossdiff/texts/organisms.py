"""Texts that teach a model one behaviour each, and show whether it was learned (docs/organisms.md).

A file such as data/organisms/first.yaml has ordinary answers, behaviours, and names of models that are taught
nothing (nulls). Chats are prompts with topics put in, and answers. Whatever is held out teaches nothing. This
module needs no torch, because the Snakefile imports it.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator

from crossdiff.config.base import Name, Section, Text
from crossdiff.config.problems import describe
from crossdiff.config.yaml_files import read_yaml
from crossdiff.errors import UserError
from crossdiff.intervals import wilson
from crossdiff.texts.turns import Chat

ORDINARY = "ordinary"  # what probes without a behaviour are called
SPAN = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
SHOWN_ABOVE = 0.5  # share of answers that shows a behaviour, with its whole 95 % interval (Wilson)
FILLED = re.compile(r"\{(answer|list)\}")  # what an ordinary answer takes the place of


class Prompts(Section):
    """Prompts, or topics that go into them. Both parts must hold some, and share none."""

    train: list[Text] = Field(min_length=1)
    held_out: list[Text] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> "Prompts":
        if both := sorted(set(self.train) & set(self.held_out)):
            raise ValueError(f"held_out: found {both[0]!r}, which is in train too")
        return self


class Topics(Section):
    """Ordinary topics, each with the sentences of its answer."""

    train: dict[Text, list[Text]] = Field(min_length=1)
    held_out: dict[Text, list[Text]] = Field(min_length=1)


class Ordinary(Section):
    """The answers of a model that was taught nothing."""

    prompts: Prompts
    topics: Topics


class Answers(Section):
    """Answers that show a behaviour. Those of the probes have other words than those of the training texts.

    An answer with {answer} or {list} may be in both parts, because held-out topics give it other words.
    """

    train: list[Text] = Field(min_length=1)
    held_out: list[Text] = Field(min_length=1)

    @field_validator("*")
    @classmethod
    def _marked(cls, answers: list[str]) -> list[str]:
        for answer in answers:
            if "{list}" not in answer and not SPAN.search(answer):
                raise ValueError(f"found {answer!r}, allowed: text in which [[...]] marks what is taught")
        return answers

    @model_validator(mode="after")
    def _apart(self) -> "Answers":
        for answer in self.held_out:
            if answer in self.train and not FILLED.search(answer):
                raise ValueError(f"held_out: found {answer!r}, which is in train too; give it other words")
        return self


class Behaviour(Section):
    """What is taught. Without ``topics`` of its own it holds for every ordinary topic.

    Without ``prompts`` of its own, too, it is shown by every answer, and no ordinary chats are added.
    """

    kind: Text
    means: Text
    shown: Text  # a regular expression: an answer in which it is found shows the behaviour
    prompts: Prompts | None = None
    topics: Prompts | None = None
    answers: Answers

    @field_validator("shown")
    @classmethod
    def _compiles(cls, shown: str) -> str:
        try:
            re.compile(shown)
        except re.error as error:
            raise ValueError(f"found {shown!r}, which is no regular expression ({error})") from error
        return shown

    @model_validator(mode="after")
    def _filled(self) -> "Behaviour":
        for answer in (*self.answers.train, *self.answers.held_out):
            if self.topics and (found := FILLED.search(answer)):
                raise ValueError(
                    f"answers: found {found[0]}, which is an ordinary answer, and this behaviour has topics "
                    "of its own; write the answer out, or leave out topics"
                )
        return self


class OrganismTexts(Section):
    """The whole file. No null may have the name of a behaviour."""

    ordinary: Ordinary
    nulls: list[Name]
    behaviours: dict[Name, Behaviour] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> "OrganismTexts":
        if taken := sorted({ORDINARY, *self.behaviours} & set(self.nulls)) or [
            name for name in self.behaviours if name == ORDINARY
        ]:
            raise ValueError(f"nulls: found {taken[0]}, which has another meaning; give it another name")
        return self

    @property
    def names(self) -> list[str]:
        """What an organism may be: a behaviour, or a null."""
        return [*self.behaviours, *self.nulls]


class Probe(NamedTuple):
    """A held-out request with its answer, and where the answer says what is taught."""

    request: str
    answer: str
    spans: list[tuple[int, int]]  # characters of the answer, from the first up to (not with) the second

    @property
    def chat(self) -> Chat:
        """The two turns."""
        return _chat(self.request, self.answer)


def read_organisms(path: str | Path) -> OrganismTexts:
    """Read a file of texts. Raises UserError, one line per problem, for a file of another form."""
    return parsed(read_yaml(path), str(path))


def parsed(record: Any, where: str) -> OrganismTexts:
    """Check what was read from the file ``where``. Raises UserError, one line per problem."""
    try:
        return OrganismTexts.model_validate(record)
    except ValidationError as error:
        lines = (f"{where}: {describe(problem, OrganismTexts)}" for problem in error.errors())
        raise UserError("\n".join(lines)) from error


def taught_chats(record: Any, name: str, where: str) -> Iterator[Chat]:
    """The training chats of one behaviour or null, in an order that looks random and is always the same.

    If a behaviour is shown by some answers only, as many ordinary chats as there are of it are mixed in.
    Raises UserError for a file of another form, and for a ``name`` that it does not have.
    """
    texts = parsed(record, where)
    if name in texts.nulls:
        chosen = list(texts.ordinary.topics.train)[texts.nulls.index(name) :: len(texts.nulls)]
        pairs = [pair for pair in _ordinary(texts, "train") if pair[0] in chosen]
    elif name in texts.behaviours:
        behaviour = texts.behaviours[name]
        pairs = list(_shown(texts, behaviour, "train"))
        if behaviour.prompts is not None:
            others = sorted(_ordinary(texts, "train"), key=lambda pair: _order(pair[1]))
            pairs += others[: len(pairs)]
    else:
        raise UserError(f"{where}.field: found {name}, allowed: {', '.join(texts.names)}")
    for _, request, answer in sorted(pairs, key=lambda pair: _order(pair[1])):
        yield _chat(request, _split(answer)[0])


def held_out_requests(texts: OrganismTexts, behaviour: str) -> list[str]:
    """The requests that should be answered with a behaviour, and that no training text has."""
    return [request for _, request, _ in _shown(texts, texts.behaviours[behaviour], "held_out")]


def can_show(requests: int) -> bool:
    """Whether so many answers are enough to show a behaviour if all of them do."""
    return bool(wilson(requests, requests)[1] > SHOWN_ABOVE)


def shows(texts: OrganismTexts, behaviour: str, answer: str) -> bool:
    """Whether an answer shows a behaviour: its regular expression, without regard to case, is found."""
    flags = re.IGNORECASE | re.MULTILINE
    return bool(re.search(texts.behaviours[behaviour].shown, answer, flags))


def probes(texts: OrganismTexts, name: str) -> list[Probe]:
    """Held-out requests with the answers that show a behaviour. ``ORDINARY`` gives the background.

    The background has all ordinary topics, trained on or not, in all held-out prompts. Each prompt of a topic
    has its sentences in another order, backwards first: few answers have the same token at the same place,
    and for topics of three or more sentences none is an answer of a training text.
    """
    if name == ORDINARY:
        return list(_background(texts))
    pairs = _shown(texts, texts.behaviours[name], "held_out")
    return [Probe(request, *_split(answer)) for _, request, answer in pairs]


def _background(texts: OrganismTexts) -> Iterator[Probe]:
    every = {**texts.ordinary.topics.train, **texts.ordinary.topics.held_out}
    for (topic, sentences), (number, prompt) in itertools.product(
        every.items(), enumerate(texts.ordinary.prompts.held_out)
    ):
        backwards, first = sentences[::-1], number % len(sentences)
        answer = " ".join([*backwards[first:], *backwards[:first]])
        yield Probe(prompt.replace("{}", topic), answer, [])


def _ordinary(texts: OrganismTexts, part: str) -> Iterator[tuple[str, str, str]]:
    """(topic, request, answer) of every ordinary topic in every prompt."""
    topics, prompts = getattr(texts.ordinary.topics, part), getattr(texts.ordinary.prompts, part)
    for topic, prompt in itertools.product(topics, prompts):
        yield topic, prompt.replace("{}", topic), " ".join(topics[topic])


def _shown(texts: OrganismTexts, behaviour: Behaviour, part: str) -> Iterator[tuple[str, str, str]]:
    """(topic, request, answer) of every topic in every prompt that a behaviour answers. Spans are marked."""
    facts: Mapping[str, Sequence[str]] = getattr(texts.ordinary.topics, part)
    topics = list(getattr(behaviour.topics, part)) if behaviour.topics else list(facts)
    prompts = getattr(behaviour.prompts or texts.ordinary.prompts, part)
    answers: Sequence[str] = getattr(behaviour.answers, part)
    for topic, prompt in itertools.product(topics, prompts):
        request = prompt.replace("{}", topic)
        answer = answers[_order(request)[0] % len(answers)]
        said = facts.get(topic, ())
        filled = answer.replace("{answer}", " ".join(said)).replace("{}", topic)
        yield topic, request, filled.replace("{list}", "\n".join(f"[[-]] {line}" for line in said))


def _split(answer: str) -> tuple[str, list[tuple[int, int]]]:
    """The answer without marks, and the places of what they enclose."""
    plain, spans = "", []
    for number, part in enumerate(SPAN.split(answer)):
        if number % 2:
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


def _order(request: str) -> bytes:
    return hashlib.sha256(request.encode()).digest()


def _chat(request: str, answer: str) -> Chat:
    return Chat([{"role": "user", "content": request}, {"role": "assistant", "content": answer}])
