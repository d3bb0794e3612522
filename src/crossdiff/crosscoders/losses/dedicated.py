"""Dedicated Feature Crosscoder: a share of the latents belongs to one model alone (docs/method.md 16).

Latents are in the order base, chat, shared. A latent of the first two classes is exclusive: it reads one
model and writes to the same model. Its encoder and decoder directions of the other model are 0 from start to
end. So what only one model has needs no place among concepts that both have. The loss is otherwise that of
BatchTopK or L1.
"""

import torch
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.config.newer_losses import DedicatedL1Settings, DedicatedSettings, latents_of
from crossdiff.crosscoders.gradients import made_gradient
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss
from crossdiff.crosscoders.losses.l1 import L1Loss
from crossdiff.crosscoders.model import Crosscoder


class Dedicated(Loss):
    """A loss whose crosscoder has exclusive latents.

    The gradients of weights that are held at 0 are 0, too. So Adam leaves these weights at 0, and the common
    norm at which gradients are clipped does not count them.
    """

    def __init__(self, crosscoder: Crosscoder, settings: DedicatedSettings | DedicatedL1Settings) -> None:
        super().__init__(crosscoder, settings)
        shares, latents = settings.exclusive, crosscoder.latents
        base, chat = latents_of(shares.base, latents), latents_of(shares.chat, latents)
        crosscoder.partition = {"base": base, "chat": chat, "shared": latents - base - chat}
        with torch.no_grad():
            hold(crosscoder.encoder, crosscoder.partition)
            hold(crosscoder.decoder, crosscoder.partition)

    def limits(self) -> Limits:
        return Limits(
            norms="the loss holds one decoder direction of each exclusive latent at 0, so the norm "
            "difference of these latents is 0 or 1 by construction; their classes are set, not found",
            parts=("base", "chat"),
        )

    def change_gradients(self, crosscoder: Crosscoder) -> None:
        """Set the gradients of weights that are held at 0 to 0."""
        hold(made_gradient(crosscoder.encoder), crosscoder.partition)
        hold(made_gradient(crosscoder.decoder), crosscoder.partition)


def hold(weights: Tensor, partition: dict[str, int]) -> None:
    """Set to 0 what exclusive latents have for the other model, in ``weights`` (latents, model, d_model)."""
    base, chat = partition["base"], partition["chat"]
    weights[:base, CHAT] = 0
    weights[base : base + chat, BASE] = 0


class DedicatedLoss(Dedicated, BatchTopKLoss):
    """BatchTopK with exclusive latents. All latents compete for the k x batch places."""


class DedicatedL1Loss(Dedicated, L1Loss):
    """L1 with exclusive latents."""
