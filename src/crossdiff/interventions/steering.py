"""Steering (docs/method.md 13): what the chat model answers when a latent is turned up, down or off.

Scale. The crosscoder sees (x_chat - mean_chat) scale_chat. So on the scale of the raw residual stream, an
activation f of latent j adds f d_j, with d_j = decoder_j^chat / scale_chat. Strength s adds s f_max d_j,
where f_max is the latent's largest activation in the training text. Strength 1 is as strong as training text
ever makes the latent. Ablation removes the whole component along d_j: h - <h, d_j> d_j / |d_j|^2. Both act at
the crosscoder's layer, at all tokens of prompt and answer except the first ones, on which crosscoders are not
trained.

Controls add a vector of the same norm, along other latents' chat directions or along random directions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from crossdiff.config import CHAT, SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.interventions.changes import Change


class Direction(NamedTuple):
    """The direction of a latent, or of a control for it."""

    latent: int  # the latent, also for its controls
    kind: str  # latent, random latent or random direction
    number: int  # number of the latent that has this direction, or of the random direction
    unit: Tensor  # (d_model,): the vector that strength 1 adds to the raw residual stream


def directions(
    crosscoder: Crosscoder, betas: pd.DataFrame, latent: int, settings: SteeringGrid
) -> list[Direction]:
    """The direction of ``latent`` and its controls, all of the same norm.

    Controls are random other live latents and random directions. Raises UserError if ``latent`` never fired.
    """
    largest = float(betas.set_index("latent").max_activation.get(latent, 0))
    if not largest > 0:
        why = "never fired in the training text, so its strengths have no unit"
        raise UserError(f"steering: latent {latent} {why}; name another one")
    raw = crosscoder.decoder[:, CHAT].float() / crosscoder.scale[CHAT]
    unit = largest * raw[latent]
    live = betas[(betas["class"] != "dead") & (betas.latent != latent)].latent.to_numpy()
    generator = np.random.default_rng([settings.seed, latent])
    others = np.sort(generator.choice(live, min(settings.random_latents, len(live)), replace=False))
    drawn = generator.normal(size=(settings.random_directions, crosscoder.d_model))
    random = torch.from_numpy(drawn).to(unit)
    return [
        Direction(latent, "latent", latent, unit),
        *(Direction(latent, "random latent", int(other), _of_norm(raw[other], unit)) for other in others),
        *(
            Direction(latent, "random direction", number, _of_norm(row, unit))
            for number, row in enumerate(random, 1)
        ),
    ]


def _of_norm(direction: Tensor, like: Tensor) -> Tensor:
    return direction / direction.norm() * like.norm()


def check_latents(latents: Sequence[int], crosscoder: Crosscoder, name: str) -> None:
    """Raise UserError if one of ``latents`` does not exist in the crosscoder ``name`` of the config."""
    highest = crosscoder.latents - 1
    for latent in latents:
        if latent > highest:
            raise UserError(f"steering.latents.{name}: found {latent}, allowed: 0 to {highest}")


class Condition(NamedTuple):
    """One way to steer: add a direction at some strength, ablate it, or change nothing."""

    change: str  # add, ablate or none
    strength: float  # in units of ``direction.unit``; NaN for ablation
    direction: Direction | None  # None for the change none

    def apply(self, width: int) -> Change:
        """The change of a residual stream of ``width`` dimensions."""
        if self.direction is None:
            return Change.nothing(width)
        unit = self.direction.unit
        return Change.add(self.strength * unit) if self.change == "add" else Change.ablate(unit)

    def columns(self) -> dict[str, Any]:
        """The condition's columns in tables. ``norm`` is the norm of the added vector, NaN for ablation."""
        latent, kind, number, unit = self.direction or (pd.NA, "none", pd.NA, torch.zeros(1))
        norm = abs(self.strength) * float(unit.norm())
        return {
            "latent": latent,
            "direction": kind,
            "number": number,
            "change": self.change,
            "strength": self.strength,
            "norm": norm,
        }


def conditions(steered: Sequence[Direction], strengths: Sequence[float]) -> list[Condition]:
    """List all conditions: no change, then each direction at each strength, from low to high, and ablated."""
    found = [Condition("none", 0.0, None)]
    for direction in steered:
        found += [Condition("add", strength, direction) for strength in sorted(strengths)]
        found.append(Condition("ablate", float("nan"), direction))
    return found
