"""Explanations by a language model, which are only made where the config names one (docs/explanations.md)."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from crossdiff.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Section, exactly_one


def _hidden(pattern: str, allowed: str) -> AfterValidator:
    """Text of this form; another is refused without being repeated: it may hold a secret."""

    def check(value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise ValueError(f"allowed: {allowed}")
        return value

    return AfterValidator(check)


class Endpoint(Section):
    """A server that speaks OpenAI's chat completions."""

    url: Annotated[
        str,
        _hidden(
            r"https?://[^@?#\s]+",
            "an address such as http://localhost:8000/v1, without user, password or query",
        ),
        Field(description="what comes before /chat/completions"),
    ]
    model: Annotated[str, Field(min_length=1, description="its name on that server")]
    key: Annotated[
        str | None,
        _hidden(
            r"[A-Z_][A-Z0-9_]*", "the name of an environment variable, in capitals; never the key itself"
        ),
        Field(description="environment variable that holds the key; none for a server that needs none"),
    ] = None
    requests_per_minute: PositiveInt = 60


class Explainer(Section):
    """The language model that explains and scores: exactly one of these."""

    endpoint: Endpoint | None = None
    folder: Annotated[str | None, Field(description="a local Hugging Face folder with a chat template")] = (
        None
    )

    @model_validator(mode="after")
    def _one(self) -> "Explainer":
        exactly_one(self, ("endpoint", "folder"))
        return self


class ExplainedLatents(Section):
    """How many latents of each kind are explained, per crosscoder and seed; one may be of several kinds."""

    chat_leaning: Annotated[int, Field(ge=0, description="the most chat-leaning ones")] = 20
    shared: Annotated[int, Field(ge=0, description="of the class shared, at random")] = 20
    low_nu: Annotated[
        int,
        Field(
            ge=0, description="of the classes.top most chat-leaning, those that latent scaling ranks first"
        ),
    ] = 10
    high_nu: Annotated[int, Field(ge=0, description="and those that it ranks last")] = 10


class Prices(Section):
    """Of a million tokens, in any currency; for the forecast of crossdiff plan."""

    read: PositiveFloat
    written: PositiveFloat


class Explanations(Section):
    """Explanations by a language model, and how they are scored (docs/method.md 13)."""

    model: Explainer
    latents: ExplainedLatents = ExplainedLatents()
    shown: Annotated[
        int, Field(gt=0, description="contexts that the explainer sees, the strongest and then random ones")
    ] = 20
    per_quantile: Annotated[
        int,
        Field(
            gt=0,
            description="contexts of each activation quantile that are judged; as many without the latent",
        ),
    ] = 5
    per_request: Annotated[int, Field(gt=0, description="contexts judged in one request")] = 5
    seed: NonNegativeInt = 0
    prices: Prices | None = None
