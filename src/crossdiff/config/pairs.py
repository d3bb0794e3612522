"""Pairs of models that are compared, and their layers."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from crossdiff.config.base import Name, NonNegativeInt, Section, about, exactly_one
from crossdiff.config.models import BASE_NAME, CHAT_ONLY_SOURCES, ModelSource

# Folders next to those of pairs.
KEPT_NAMES = ("packages", "models", "tokenizers", "tokens", "activations")


class Layers(Section):
    """The layer, or the layers, of a pair. Give exactly one of ``layer`` and ``layers``.

    Each layer may appear once. A model runs once for all its layers.
    """

    layer: Annotated[
        NonNegativeInt | None,
        about("0-based block whose output (residual stream) is compared. The paper: 13 of 26.", "block"),
    ] = None
    layers: Annotated[
        list[NonNegativeInt] | None,
        Field(min_length=1),
        about("Several such blocks. Each gets crosscoders, tables and a report of its own.", "block"),
    ] = None

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        exactly_one(self, ("layer", "layers"))
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers: found {self.layers}, each layer may appear once")
        return self

    @property
    def every_layer(self) -> list[int]:
        """All layers, in the order of the config."""
        return [self.layer] if self.layer is not None else self.layers or []


class GivenPair(Layers):
    """The two models that are compared. Give exactly one of ``layer`` and ``layers``.

    Each layer may appear once. A model runs once for all layers. The models' names must differ.
    """

    name: Annotated[Name, about("Name of the pair's folder in results.")]
    base: ModelSource
    chat: ModelSource

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.name in KEPT_NAMES:
            raise ValueError(f"name: {kept(self.name)}")
        if self.model_name("base") == self.model_name("chat"):
            raise ValueError(
                f"chat.name: found {self.model_name('chat')}, which is the base model's name; give it another"
            )
        return self

    @model_validator(mode="after")
    def _base_is_given(self) -> Self:
        if self.base.kind in CHAT_ONLY_SOURCES:
            raise ValueError(f"base: found {self.base.kind}, only the chat model can be made from the base")
        if self.base.origin is not None:
            raise ValueError("base.adapter.base: missing; allowed: a source, since this is the pair's base")
        if self.chat.origin not in (None, BASE_NAME):
            key = "finetune.from" if self.chat.finetune else "adapter.base"
            raise ValueError(
                f"chat.{key}: found {self.chat.origin}, allowed: {BASE_NAME}, which is the pair's base"
            )
        if self.chat.origin and self.base.adapter and not self.base.adapter.merge:
            raise ValueError("base.adapter.merge: found False, allowed: True, since the chat model adapts it")
        _check_bits(self.base, self.chat, "base")
        return self

    def source(self, role: str) -> ModelSource:
        """The source of the base or the chat model."""
        return self.base if role == "base" else self.chat

    def model_name(self, role: str) -> str:
        """The name of the base or the chat model. Its folder and its activations have this name."""
        return self.source(role).name or f"{self.name}-{role}"


class NamedPair(Layers):
    """Two models that are compared. Give exactly one of ``layer`` and ``layers``.

    The key is the name of the pair's folder in results. Each layer may appear once. A model runs once for
    all layers of all its pairs.
    """

    base: Annotated[Name, about("The base model, by its name in `models`.")]
    chat: Annotated[Name, about("The chat model, by its name in `models`.")]


class Pair(GivenPair):
    """Two models at one layer, as a job sees them. Both have their names."""

    layer: NonNegativeInt


def kept(name: str) -> str:
    """What is wrong with the name of a pair that is a folder of results."""
    return f"found {name}, allowed: any but {', '.join(KEPT_NAMES)}, which are folders of results"


def models_of(pair: GivenPair) -> dict[str, ModelSource]:
    """Name -> source of both models. A model that is made from the base names it. A planted one is none."""
    base, chat = (pair.model_name(role) for role in ("base", "chat"))
    found = {base: pair.base.model_copy(update={"name": base})}
    if pair.chat.planted is None:
        source = pair.chat if pair.chat.origin is None else pair.chat.made_from(base)
        found[chat] = source.model_copy(update={"name": chat})
    return found


def check_models(models: Mapping[str, ModelSource]) -> None:
    """Raise ValueError for models by name that can't be made as they are described."""
    for name, source in models.items():
        key = f"models.{name}"
        if name == BASE_NAME:
            raise ValueError(
                f"{key}: the name is taken: in pair, it stands for the pair's base; give another"
            )
        if source.name is not None:
            raise ValueError(f"{key}.name: found {source.name}; leave it out, the key is the model's name")
        if source.planted is not None:
            raise ValueError(f"{key}: found planted, which is no model; it stands in pair.chat")
        if source.origin is None:
            continue
        at = f"{key}.{'finetune.from' if source.finetune else 'adapter.base'}"
        others = [other for other in models if other != name]
        if source.origin not in others:
            raise ValueError(f"{at}: found {source.origin}, allowed: {', '.join(others) or 'another model'}")
        origin = models[source.origin]
        if origin.adapter is not None and not origin.adapter.merge:
            raise ValueError(
                f"models.{source.origin}.adapter.merge: found False, allowed: True, "
                f"since {name} is made from it"
            )
        _check_bits(origin, source, f"models.{source.origin}")
        seen, above = {name}, source.origin
        while above in models and (above_it := models[above].origin) is not None:
            seen.add(above)
            if above_it in seen:
                raise ValueError(f"{at}: found {source.origin}, which is itself made from {name}")
            above = above_it


def _check_bits(origin: ModelSource, source: ModelSource, key: str) -> None:
    """Raise ValueError for an ``origin`` of few bits from which ``source`` would be trained or merged."""
    merges = source.adapter is not None and source.adapter.merge and source.origin is not None
    if origin.bits is not None and (source.finetune is not None or merges):
        use = "merged with an adapter" if merges else "trained"
        raise ValueError(
            f"{key}.bits: found {origin.bits}, but weights of few bits can't be {use}; leave it out"
        )


def check_pairs(pairs: Mapping[str, NamedPair], models: Mapping[str, ModelSource]) -> None:
    """Raise ValueError for pairs whose models are not named, or are one model."""
    for name, pair in pairs.items():
        if name in KEPT_NAMES:
            raise ValueError(f"pairs: {kept(name)}")
        for role, model in (("base", pair.base), ("chat", pair.chat)):
            if model not in models:
                raise ValueError(f"pairs.{name}.{role}: found {model}, allowed: {', '.join(models)}")
        if pair.base == pair.chat:
            raise ValueError(f"pairs.{name}.chat: found {pair.chat}, which is the base model too")
