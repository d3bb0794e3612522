"""Losses that came after the paper's two. Each has the keys of ``batchtopk`` or ``l1``, and some of its own."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import OpenFraction, PositiveFloat, PositiveInt, Section, about
from crossdiff.config.crosscoders import CrosscoderSettings, PenaltyKeys, TopKKeys

NAME = "The loss whose keys these are."


def latents_of(share: float, latents: int) -> int:
    """Return the number of latents in a ``share`` of all ``latents``, rounded."""
    return math.floor(share * latents + 0.5)


def _check_latents(settings: CrosscoderSettings, key: str) -> None:
    """Raise ValueError if ``key`` needs more latents than the settings give."""
    least, latents = settings.needs[key], settings.latents
    if latents is not None and latents < least:
        raise ValueError(f"{key}: needs {least} latents, found {latents}; raise latents or the smallest share")


def _check_one_threshold(settings: CrosscoderSettings) -> None:
    """Raise ValueError if each model is to have its own selection, which not every loss can do."""
    if settings.code_normalisation == "decoupled":
        raise ValueError(
            "code_normalisation: found decoupled, allowed with this loss: crosscoder, sae, mixed, none"
        )


class Exclusive(Section):
    """Shares of the latents that belong to one model alone (docs/method.md 16).

    Both shares together must be below 1: the other latents are shared.
    """

    base: Annotated[
        OpenFraction, about("Share of the latents that only the base model has. The paper: .01 to .05.", "share")
    ] = 0.05
    chat: Annotated[
        OpenFraction, about("Share of the latents that only the chat model has. The paper: .01 to .05.", "share")
    ] = 0.05

    @model_validator(mode="after")
    def _some_shared(self) -> "Exclusive":
        if self.base + self.chat >= 1:
            raise ValueError(
                f"found base {self.base} and chat {self.chat}, which leave no shared latent; "
                "allowed: a sum below 1"
            )
        return self

    @property
    def least(self) -> int:
        """The latents at which every class has one."""
        return math.ceil(1 / min(self.base, self.chat, 1 - self.base - self.chat))


class DedicatedSettings(TopKKeys):
    """Dedicated Feature Crosscoder with the selection of ``batchtopk`` (docs/method.md 16).

    Each class of ``exclusive`` must get a latent.
    """

    objective = "crossdiff.crosscoders.losses.dedicated:DedicatedLoss"

    loss: Annotated[Literal["dedicated"], about(NAME)]
    exclusive: Exclusive = Exclusive()

    @property
    def needs(self) -> dict[str, int]:
        return super().needs | {"exclusive": self.exclusive.least}

    @model_validator(mode="after")
    def _classes(self) -> "DedicatedSettings":
        _check_latents(self, "exclusive")
        return self


class DedicatedL1Settings(PenaltyKeys):
    """Dedicated Feature Crosscoder with the penalty of ``l1`` (docs/method.md 16).

    Each class of ``exclusive`` must get a latent.
    """

    objective = "crossdiff.crosscoders.losses.dedicated:DedicatedL1Loss"

    loss: Annotated[Literal["dedicated_l1"], about(NAME)]
    exclusive: Exclusive = Exclusive()

    @property
    def needs(self) -> dict[str, int]:
        return {"exclusive": self.exclusive.least}

    @model_validator(mode="after")
    def _classes(self) -> "DedicatedL1Settings":
        _check_latents(self, "exclusive")
        return self


class Designated(Section):
    """Latents that both models share by force, and what they cost (docs/method.md 17)."""

    share: Annotated[
        OpenFraction, about("Share of the latents with one decoder direction for both models.", "share")
    ]
    penalty: Annotated[
        float,
        Field(gt=0, le=1),
        about("Penalty of these latents over that of the others. The source: .1 to .2.", "ratio"),
    ] = 0.2

    @property
    def least(self) -> int:
        """The latents at which there is one of each kind."""
        return math.ceil(1 / min(self.share, 1 - self.share))


class DesignatedSettings(TopKKeys):
    """Designated shared latents with the selection of ``batchtopk`` (docs/method.md 17).

    There must be a designated latent and a free one. ``code_normalisation`` can't be `decoupled`.
    """

    objective = "crossdiff.crosscoders.losses.designated:DesignatedLoss"

    loss: Annotated[Literal["designated"], about(NAME)]
    designated: Designated

    @property
    def needs(self) -> dict[str, int]:
        return super().needs | {"designated": self.designated.least}

    @model_validator(mode="after")
    def _kinds(self) -> "DesignatedSettings":
        _check_latents(self, "designated")
        _check_one_threshold(self)
        return self


class DesignatedL1Settings(PenaltyKeys):
    """Designated shared latents with the penalty of ``l1`` (docs/method.md 17).

    There must be a designated latent and a free one.
    """

    objective = "crossdiff.crosscoders.losses.designated:DesignatedL1Loss"

    loss: Annotated[Literal["designated_l1"], about(NAME)]
    designated: Designated

    @property
    def needs(self) -> dict[str, int]:
        return {"designated": self.designated.least}

    @model_validator(mode="after")
    def _kinds(self) -> "DesignatedL1Settings":
        _check_latents(self, "designated")
        return self
