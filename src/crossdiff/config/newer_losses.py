"""Losses that came after the paper's two. Most have the keys of ``batchtopk`` or ``l1``, and some more."""

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt, Section, about
from crossdiff.config.crosscoders import CrosscoderSettings, PenaltyKeys, TopKKeys

NAME = "The loss whose keys these are."


def latents_of(share: float, latents: int) -> int:
    """Return the number of latents in a ``share`` of all ``latents``, rounded."""
    return math.floor(share * latents + 0.5)


def _check_latents(settings: CrosscoderSettings, key: str) -> None:
    """Raise ValueError if ``key`` needs more latents than the settings give."""
    least, latents = settings.needs[key], settings.latents
    if latents is not None and latents < least:
        raise ValueError(f"{key}: needs {least} latents, found {latents}; raise latents")


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
        OpenFraction,
        about("Share of the latents that only the base model has. The paper: .01 to .05.", "share"),
    ] = 0.05
    chat: Annotated[
        OpenFraction,
        about("Share of the latents that only the chat model has. The paper: .01 to .05.", "share"),
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
        """The latents from which on every class has one. Both shares may round up and take a shared one."""
        shared = 1 - self.base - self.chat
        return max(math.ceil(1 / min(self.base, self.chat)), math.floor(round(1 / shared, 9)) + 1)


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


class MatryoshkaSettings(TopKKeys):
    """Nested dictionaries with the selection of ``batchtopk`` (docs/method.md 18).

    ``prefixes`` must ascend, and each must hold more latents than the one before. ``code_normalisation``
    can't be `decoupled`.
    """

    objective = "crossdiff.crosscoders.losses.matryoshka:MatryoshkaLoss"
    step_like = ("batchtopk", 1.3)

    loss: Annotated[Literal["matryoshka"], about(NAME)]
    prefixes: Annotated[
        list[OpenFraction],
        Field(min_length=1),
        about("Shares of the latents that must reconstruct alone. The whole dictionary is added.", "share"),
    ] = Field(default_factory=lambda: [1 / 32, 3 / 32, 7 / 32, 15 / 32])

    @property
    def needs(self) -> dict[str, int]:
        ends = [0.0, *self.prefixes, 1.0]
        gaps = [end - start for start, end in itertools.pairwise(ends)]
        return super().needs | {"prefixes": math.ceil(1 / min(gaps))}

    @model_validator(mode="after")
    def _nested(self) -> "MatryoshkaSettings":
        if any(one >= following for one, following in itertools.pairwise(self.prefixes)):
            raise ValueError(f"prefixes: found {self.prefixes}, allowed: shares that ascend")
        _check_latents(self, "prefixes")
        _check_one_threshold(self)
        return self


class JumpReLUSettings(CrosscoderSettings):
    """Learned thresholds and a penalty on the number of active latents (docs/method.md 19).

    ``initial_l0`` must not exceed ``latents``. ``code_normalisation`` can't be `decoupled`.
    """

    objective = "crossdiff.crosscoders.losses.jumprelu:JumpReLULoss"
    step_like = ("batchtopk", 1.0)

    loss: Annotated[Literal["jumprelu"], about(NAME)]
    l0_coefficient: Annotated[
        PositiveFloat,
        about("Weight of the number of active latents. Raise it for fewer.", "ratio"),
    ]
    l0_warmup_steps: Annotated[
        NonNegativeInt, about("Steps over which `l0_coefficient` rises linearly.", "steps")
    ] = 0
    initial_l0: Annotated[
        PositiveInt, about("Active latents per token at the first step, which sets the thresholds.", "count")
    ] = 100
    bandwidth: Annotated[
        PositiveFloat,
        about(
            "Width of the window in which thresholds get gradients, over the first threshold. A wider one "
            "takes more entries into account, and more time.",
            "ratio",
        ),
    ] = 0.25
    init_norm: Annotated[PositiveFloat, about("Norm of every decoder row at the start.", "decoder norm")] = (
        1.0
    )

    @property
    def needs(self) -> dict[str, int]:
        return {"initial_l0": self.initial_l0}

    @model_validator(mode="after")
    def _thresholds(self) -> "JumpReLUSettings":
        _check_latents(self, "initial_l0")
        _check_one_threshold(self)
        return self


class DeltaSettings(TopKKeys):
    """An added loss on the difference of both models, with latents of its own (docs/method.md 20).

    ``k`` must not exceed the shared latents, and ``delta_k`` not the others. ``code_normalisation`` can't be
    `decoupled`.
    """

    objective = "crossdiff.crosscoders.losses.delta:DeltaLoss"
    step_like = ("batchtopk", 1.2)

    loss: Annotated[Literal["delta"], about(NAME)]
    shared: Annotated[
        OpenFraction, about("Share of the latents that the added loss does not use, the first ones.", "share")
    ]
    delta_k: Annotated[
        PositiveInt,
        about("Active latents per token among the others. `k` counts shared ones alone.", "count"),
    ]
    delta_coefficient: Annotated[PositiveFloat, about("Weight of the added loss.", "ratio")] = 1.0

    @property
    def needs(self) -> dict[str, int]:
        most = max(self.k, self.k_max or 0)
        return {
            "k": math.ceil(most / self.shared),
            "delta_k": math.ceil(self.delta_k / (1 - self.shared)),
        }

    @property
    def active_latents(self) -> int:
        return self.k + self.delta_k

    @model_validator(mode="after")
    def _partitions(self) -> "DeltaSettings":
        for key, active, share in (
            ("k", max(self.k, self.k_max or 0), self.shared),
            ("delta_k", self.delta_k, 1 - self.shared),
        ):
            if self.latents is not None and active > share * self.latents:
                raise ValueError(
                    f"{key}: found {active}, must be at most the {math.floor(share * self.latents)} latents "
                    f"of its class ({share:.4g} of {self.latents})"
                )
        _check_one_threshold(self)
        return self


class BridgeSettings(TopKKeys):
    """An error that couples both models, with the selection of ``batchtopk`` (docs/method.md 21).

    ``squared_error`` must be true.
    """

    objective = "crossdiff.crosscoders.losses.bridge:BridgeLoss"

    loss: Annotated[Literal["bridge"], about(NAME)]
    coupling: Annotated[
        float,
        Field(ge=-1, le=1),
        about(
            "Lambda: 0 couples nothing, at -1 only the difference of errors counts. Beyond 1 the loss would "
            "have no lower bound.",
            "ratio",
        ),
    ]

    @model_validator(mode="after")
    def _squared(self) -> "BridgeSettings":
        if not self.squared_error:
            raise ValueError("squared_error: found false, allowed with this loss: true")
        return self


class DifferenceSettings(TopKKeys):
    """A sparse autoencoder of the difference of both models, with the selection of ``batchtopk``.

    It has no base decoder. What compares both decoders is missing in later stages (docs/method.md 22).
    ``normalisation.kind`` can't be `per_model`, and ``code_normalisation`` can't be `decoupled`.
    """

    objective = "crossdiff.crosscoders.losses.difference:DifferenceLoss"

    loss: Annotated[Literal["difference"], about(NAME)]

    @model_validator(mode="after")
    def _one_scale(self) -> "DifferenceSettings":
        if self.normalisation.kind == "per_model":
            raise ValueError("normalisation.kind: found per_model, allowed with this loss: none, shared")
        _check_one_threshold(self)
        return self
