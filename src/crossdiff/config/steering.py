"""Steering: which prompts are answered under which changes, and what is counted in the answers."""

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from crossdiff.config.base import Name, NonNegativeInt, PositiveInt, Section, Text, about

if TYPE_CHECKING:
    from crossdiff.config.whole import Config


class Stated(Section):
    """What is counted in answers (docs/read-the-report.md). Give at most one; without one, refusals count."""

    pattern: Annotated[
        Text | None, about("Regular expression, found anywhere in the answer (Python's `re.search`).")
    ] = None
    words: Annotated[
        list[Text] | None,
        Field(min_length=1),
        about("Words or phrases. One of them must be in the answer, as a whole word, in any case."),
    ] = None
    judge: Annotated[
        Text | None,
        about("Question about an answer that the model of `explanations.model` answers with yes or no."),
    ] = None

    @model_validator(mode="after")
    def _one(self) -> "Stated":
        given = [name for name in ("pattern", "words", "judge") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"found {' and '.join(given)}, allowed: at most one of pattern, words, judge")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                why = f"which is no regular expression ({error})"
                raise ValueError(f"pattern: found {self.pattern!r}, {why}; see Python's re") from None
        for name, texts in (("words", self.words or []), ("judge", [self.judge or "?"])):
            if blank := [text for text in texts if not text.strip()]:
                raise ValueError(f"{name}: found {blank[0]!r}, allowed: text that is not blank")
        return self

    @property
    def said(self) -> str:
        """What an answer with the behaviour does, in words."""
        if self.pattern is not None:
            return f"matches /{self.pattern}/"
        if self.words is not None:
            return f"contains one of: {', '.join(self.words)}"
        return "refuses" if self.judge is None else f"is judged yes: {self.judge}"


class SteeringGrid(Section):
    """How latents are turned up and down while the chat model answers held-out prompts."""

    strengths: Annotated[
        list[float],
        Field(min_length=1),
        about("Multiples of a latent's largest activation in training text. 0 is always measured.", "ratio"),
    ] = Field(default_factory=lambda: [-2.0, -1.0, 1.0, 2.0, 3.0])
    phrasings: Annotated[
        PositiveInt,
        about("Phrasings of the file, from its first on, that each request is put into.", "count"),
    ] = 1
    prompts: Annotated[
        Name | None,
        about(
            "Data set of kind `chats` whose validation chats give the prompts, up to the first user turn. "
            "Left out: the held-out requests of `behaviour`."
        ),
    ] = None
    conversations: Annotated[PositiveInt, about("Prompts taken from `prompts`.", "count")] = 32
    answer_tokens: Annotated[PositiveInt, about("Longest answer.", "tokens")] = 16
    first_tokens: Annotated[
        PositiveInt,
        about("First tokens of the unsteered answers, at which predictions are compared.", "tokens"),
    ] = 5
    random_latents: Annotated[
        NonNegativeInt,
        about("Other latents that are steered as controls, at equal norm, per latent.", "count"),
    ] = 2
    random_directions: Annotated[
        NonNegativeInt,
        about("Random directions that are steered as controls, at equal norm, per latent.", "count"),
    ] = 2
    seed: Annotated[NonNegativeInt, about("Decides the controls and the bootstrap.", "seed")] = 0

    @model_validator(mode="after")
    def _grid(self) -> "SteeringGrid":
        if 0 in self.strengths or len(set(self.strengths)) != len(self.strengths):
            raise ValueError(
                f"strengths: found {self.strengths}, allowed: different ones, without 0, "
                "which is always measured"
            )
        return self


class Steering(SteeringGrid):
    """Latents are turned up and down while the chat model answers held-out prompts.

    Without this section nothing is steered. Without ``prompts``, the section ``behaviour`` must be there too.
    Of every crosscoder one latent is steered, confirmed ones first, and those that ``latents`` names.
    Counted are answers with the stated ``behaviour``. ``judge`` needs the section ``explanations``. Strengths
    must differ from each other and from 0.
    """

    behaviour: Stated = Stated()
    latents: Annotated[
        dict[Name, list[NonNegativeInt]],
        about("Further latents to steer, by crosscoder: `{l1: [5, 17]}`.", "latent"),
    ] = Field(default_factory=dict)


def check_steering(config: "Config", steering: Steering) -> None:
    """Check what must hold between steering and other sections. Raises ValueError."""
    if steering.prompts is not None:
        config.must_be_chats("steering.prompts", steering.prompts)
        config.leaves_room("steering.answer_tokens", steering.answer_tokens)
    elif config.behaviour is None:
        raise ValueError(
            "steering: found without behaviour, which names the requests; give behaviour.requests too, "
            "or steering.prompts"
        )
    if steering.behaviour.judge is not None and config.explanations is None:
        raise ValueError(
            "steering.behaviour.judge: found without explanations, which names the model that judges; "
            "give explanations.model too"
        )
    for name, latents in steering.latents.items():
        if name not in config.crosscoders:
            raise ValueError(f"steering.latents: found {name}, allowed: {', '.join(config.crosscoders)}")
        if len(set(latents)) != len(latents):
            raise ValueError(f"steering.latents.{name}: found {latents}, each latent may appear once")
