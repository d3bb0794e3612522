"""Models: where each comes from, or how it is made."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import (
    ByName,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    about,
    exactly_one,
    with_ranges,
)
from crossdiff.config.given import GIVEN, Adapter, GivenModel
from crossdiff.config.sources import Package

MODELS = ("base", "chat")  # in the order of every model axis
BASE, CHAT = range(len(MODELS))
BASE_NAME = "base"  # what a chat model in ``pair`` calls the model that it is made from
CHAT_ONLY_SOURCES = ("finetune", "planted")
SOURCES = (*GIVEN, "adapter", "random", *CHAT_ONLY_SOURCES)  # of a model

Frequency = Annotated[float, Field(gt=0, le=0.25)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Angle = Annotated[float, Field(gt=0, le=90)]


class Finetuning(Section):
    """How a chat model is trained. AdamW trains all weights; the loss is on assistant turns only.

    The learning rate warms up linearly, then falls along a half cosine to a tenth.
    """

    data: Annotated[
        dict[Name, PositiveInt],
        Field(min_length=1),
        ByName,
        about("How much to train on: a data set of kind `chats`, and tokens of it.", "tokens"),
    ]
    epochs: Annotated[PositiveInt, about("Passes over these tokens.", "count")] = 1
    batch_tokens: Annotated[
        PositiveInt, about("Tokens per step, padding included. More need more memory.", "tokens")
    ] = 2048
    max_length: Annotated[
        PositiveInt, about("Longest chat; longer ones are cut, or read in windows (`long`).", "tokens")
    ] = 512
    learning_rate: Annotated[PositiveFloat, about("Highest learning rate.", "AdamW rate")] = 3.0e-4
    warmup_fraction: Annotated[
        Fraction,
        about("Steps over which the learning rate warms up.", "share"),
    ] = 0.05
    weight_decay: Annotated[NonNegativeFloat, about("Weight decay of AdamW.", "AdamW rate")] = 0.01
    seed: Annotated[NonNegativeInt, about("Decides the order of the chats.", "seed")] = 0


class Finetune(Finetuning):
    """A model that is made here from another one. In ``pair`` that is the base.

    AdamW trains all weights; the loss is on assistant turns only. The learning rate warms up linearly, then
    falls along a half cosine to a tenth. Every data set in ``data`` must be of kind ``chats``.
    """

    origin: Annotated[
        Name,
        Field(alias="from"),
        about("The model that training starts from: `base` in `pair`, a name of `models` in `models`."),
    ] = BASE_NAME
    chat_template: Annotated[Text, about("Jinja file: the chat template of the new model.")]


class PlantedConcepts(Section):
    """How many concepts of each kind are planted (docs/planted.md)."""

    chat_only: Annotated[
        PositiveInt, about("Concepts in the chat model alone: what a crosscoder should find.", "count")
    ]
    base_only: Annotated[NonNegativeInt, about("Concepts in the base model alone.", "count")] = 0
    weakened: Annotated[
        NonNegativeInt, about("Concepts on the same tokens in both models, weaker in the base.", "count")
    ] = 0
    decoupled: Annotated[
        NonNegativeInt, about("Concepts of one direction, on partly different tokens in each model.", "count")
    ] = 0
    rotated: Annotated[
        NonNegativeInt, about("Concepts on the same tokens, with another direction in each model.", "count")
    ] = 0
    shared: Annotated[NonNegativeInt, about("Concepts that are the same in both models.", "count")] = 0


class Noise(Section):
    """Independent normal noise in place of the base model's activations."""

    d_model: Annotated[PositiveInt, about("Width of the activations.", "dimensions")]
    norm: Annotated[PositiveFloat, about("Root mean square norm of a token.", "activation norm")] = 1.0


class Planted(Section):
    """Known concepts are planted into activations, in place of a chat model (docs/planted.md).

    The first number of a range must not exceed the second. The section ``scoring`` must be there;
    ``causal``, ``behaviour`` and ``steering`` must not.
    """

    concepts: PlantedConcepts
    seed: Annotated[
        NonNegativeInt, about("Decides directions, strengths and firings of all concepts.", "seed")
    ]
    noise: Noise | None = None
    frequency: Annotated[
        tuple[Frequency, Frequency],
        about("How often a concept fires, drawn log-uniformly between the two.", "share of tokens"),
    ] = (0.003, 0.03)
    strength: Annotated[
        PositiveFloat,
        about(
            "Median strength of a firing, over the background's centred norm. More is easier to find.",
            "ratio",
        ),
    ] = 1 / 3
    strength_spread: Annotated[
        Fraction, about("Standard deviation of the log strength of a concept's firings.", "log ratio")
    ] = 0.3
    weakened_ratio: Annotated[
        tuple[Ratio, Ratio],
        about("Base over chat strength of weakened concepts, spread evenly between the two.", "ratio"),
    ] = (0.05, 0.9)
    decoupled_share: Annotated[
        Ratio, about("Firings of decoupled concepts that are on other tokens in the base.", "share")
    ] = 0.5
    rotation: Annotated[
        tuple[Angle, Angle],
        about(
            "Angle between base and chat direction of rotated concepts, spread evenly between the two.",
            "degrees",
        ),
    ] = (20.0, 70.0)
    largest_cosine: Annotated[
        OpenFraction,
        about("Largest cosine of any two planted directions. Raise it to fit in more concepts.", "cosine"),
    ] = 0.3
    largest_norm_change: Annotated[
        PositiveFloat, about("How much planting may raise the root mean square norm of activations.", "share")
    ] = 0.2
    fewest_firings: Annotated[
        int,
        Field(gt=1),
        about("Expected firings in training text that the rarest concept must have.", "count"),
    ] = 100

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, values: Any) -> Any:
        return with_ranges(values, "frequency", "weakened_ratio", "rotation")

    @model_validator(mode="after")
    def _ranges(self) -> "Planted":
        for name in ("frequency", "weakened_ratio", "rotation"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: found {low}, {high}, allowed: first <= second")
        return self


class RandomModel(Section):
    """A small Llama with random weights and a tokenizer made on the spot, for tests.

    What comes out means nothing.
    """

    layers: Annotated[PositiveInt, about("Blocks of the model.", "count")]
    d_model: Annotated[PositiveInt, about("Width of the residual stream.", "dimensions")]
    chat_template: Annotated[Text, about("Jinja file: the chat template of the model.")]
    seed: Annotated[NonNegativeInt, about("Decides the weights.", "seed")] = 0


class ModelSource(GivenModel):
    """Where a model comes from. Give exactly one source.

    In ``pair``, ``finetune`` and ``planted`` are for the chat model alone. In ``models``, the key is the
    model's name, ``planted`` is not allowed, and an adapter on another model names it (``adapter.base``).
    """

    name: Annotated[
        Name | None,
        about("Name of the model's folder in results/models. Left out: the pair's name and -base or -chat."),
    ] = None
    adapter: Adapter | None = None
    random: RandomModel | None = None
    finetune: Finetune | None = None
    planted: Planted | None = None
    bits: Annotated[
        Literal[8, 4] | None,
        about("Load the weights in so many bits (bitsandbytes). Left out: as they are stored."),
    ] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "ModelSource":
        kind = exactly_one(self, SOURCES)
        if self.bits is not None and kind not in (*GIVEN, "adapter"):
            allowed = f"allowed with {', '.join(GIVEN)} and adapter; leave it out"
            raise ValueError(f"bits: found {self.bits} with {kind}, {allowed}")
        return self

    @property
    def kind(self) -> str:
        """The source that is given, one of ``SOURCES``."""
        return exactly_one(self, SOURCES)

    @property
    def origin(self) -> str | None:
        """The model that this one is made from: a name of ``models``, or ``base`` for the pair's base.

        None for a model with a source of its own.
        """
        if self.finetune is not None:
            return self.finetune.origin
        if self.adapter is not None and not isinstance(self.adapter.base, GivenModel):
            return self.adapter.base or BASE_NAME
        return None

    def made_from(self, origin: str) -> "ModelSource":
        """This model with another name for ``origin``."""
        if self.finetune is not None:
            return self.model_copy(update={"finetune": self.finetune.model_copy(update={"origin": origin})})
        if self.adapter is not None:
            return self.model_copy(update={"adapter": self.adapter.model_copy(update={"base": origin})})
        raise ValueError(f"a model with the source {self.kind} is made from no other")

    @property
    def wheel(self) -> Package | None:
        """The package that the model, or the base of its adapter, comes in."""
        if self.adapter is None:
            return self.package
        return self.adapter.base.package if isinstance(self.adapter.base, GivenModel) else None
