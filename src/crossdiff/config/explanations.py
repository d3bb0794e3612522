"""Explanations by a language model, which are only made where the config names one (docs/explanations.md)."""

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema, model_validator

from crossdiff.config.base import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    about,
    exactly_one,
)

ADDRESS = r"^https?://[^@?#\s]+$"
VARIABLE = r"^[A-Z_][A-Z0-9_]*$"


def _hidden(pattern: str, allowed: str) -> AfterValidator:
    """A check for text of this form. Other text is refused but not repeated: it may hold a secret."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"allowed: {allowed}")
        return value

    return AfterValidator(check)


_Address = Annotated[
    str,
    _hidden(ADDRESS, "an address such as http://localhost:8000/v1, without user, password or query"),
    WithJsonSchema({"type": "string", "pattern": ADDRESS}),
]
_Variable = Annotated[
    str,
    _hidden(VARIABLE, "the name of an environment variable, in capitals; never the key itself"),
    WithJsonSchema({"type": "string", "pattern": VARIABLE}),
]


class Endpoint(Section):
    """A server with OpenAI's chat completions."""

    url: Annotated[
        _Address,
        about("Address up to /chat/completions, such as http://localhost:8000/v1; no user or password."),
    ]
    model: Annotated[Text, about("Name of the model on that server.")]
    key: Annotated[
        _Variable | None,
        about("Environment variable that holds the key; never the key itself. Left out: no key is sent."),
    ] = None
    requests_per_minute: Annotated[
        PositiveInt, about("Limit on requests, of all runs in this folder together.", "requests per minute")
    ] = 60


class Explainer(Section):
    """The language model that explains and scores. Give exactly one of the two."""

    endpoint: Endpoint | None = None
    folder: Annotated[Text | None, about("A local Hugging Face folder with a chat template.")] = None

    @model_validator(mode="after")
    def _one(self) -> "Explainer":
        exactly_one(self, ("endpoint", "folder"))
        return self


class ExplainedLatents(Section):
    """How many latents of each kind are explained, per crosscoder and seed.

    A latent may be of several kinds.
    """

    confirmed: Annotated[
        NonNegativeInt,
        about(
            "Latents that latent scaling confirms: those of findings, then the most chat-leaning.", "count"
        ),
    ] = 20
    chat_leaning: Annotated[NonNegativeInt, about("The most chat-leaning latents.", "count")] = 20
    shared: Annotated[NonNegativeInt, about("Latents of the class shared, at random.", "count")] = 20
    low_nu: Annotated[
        NonNegativeInt,
        about("Of the `classes.top` most chat-leaning ones, those that latent scaling ranks first.", "count"),
    ] = 10
    high_nu: Annotated[
        NonNegativeInt, about("Of the same, those that latent scaling ranks last.", "count")
    ] = 10


class Prices(Section):
    """What the server's tokens cost, for the forecast of ``crossdiff plan``. Any currency."""

    read: Annotated[PositiveFloat, about("Price of tokens in prompts.", "per million tokens")]
    written: Annotated[PositiveFloat, about("Price of tokens in answers.", "per million tokens")]


class Explanations(Section):
    """Explanations by a language model, and how they are scored (docs/explanations.md).

    Without this section no language model is asked.
    """

    model: Explainer
    latents: ExplainedLatents = ExplainedLatents()
    shown: Annotated[
        PositiveInt,
        about("Contexts that the explainer sees of a latent: the strongest, then random ones.", "count"),
    ] = 20
    per_quantile: Annotated[
        PositiveInt,
        about(
            "Contexts of each activation quantile that are judged. As many without the latent are.", "count"
        ),
    ] = 5
    per_request: Annotated[PositiveInt, about("Contexts judged in one request.", "count")] = 5
    seed: Annotated[NonNegativeInt, about("Decides which contexts are shown and judged.", "seed")] = 0
    prices: Prices | None = None
