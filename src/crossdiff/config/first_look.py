"""The first look at a pair of models, before any crosscoder (docs/first-look.md)."""

from typing import Annotated, Literal

from crossdiff.config.base import PositiveInt, Section, about


class FirstLook(Section):
    """What both models' activations and predictions show before any crosscoder (docs/first-look.md)."""

    tokens: Annotated[
        PositiveInt, about("Training tokens that both models read, of all data sets together.", "tokens")
    ] = 20_000
    conversations: Annotated[
        PositiveInt,
        about("Held-out prompts that both models answer, of all data sets of kind `chats`.", "count"),
    ] = 8
    answer_tokens: Annotated[
        PositiveInt,
        about("Longest answer. Prompts may take the rest of `tokens.context`.", "tokens"),
    ] = 24
    equal_models: Annotated[
        Literal["stop", "allow"],
        about("Whether a run of two models that do not differ stops before training."),
    ] = "stop"
