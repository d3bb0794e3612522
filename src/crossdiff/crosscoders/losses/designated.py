"""Designated shared latents: a share of the latents is shared by force, and cheaper (docs/method.md 17).

Latents are in the order designated, free. A designated latent has one decoder direction for both models, and
a smaller penalty than a free one. Concepts that both models have then need no free latents, which are left
for what differs. Encoders of all latents read both models freely.

In the selection of BatchTopK there is no penalty. There a designated latent's scaled activation is divided by
the penalty, so a small penalty makes its selection easier.
"""

import torch
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.config.newer_losses import DesignatedL1Settings, DesignatedSettings, latents_of
from crossdiff.crosscoders.gradients import made_gradient
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss
from crossdiff.crosscoders.losses.l1 import L1Loss
from crossdiff.crosscoders.model import Crosscoder


class Designated(Loss):
    """A loss whose crosscoder has designated latents.

    Both decoder directions of such a latent start equal and get the mean of both gradients. So Adam moves
    them alike.
    """

    penalties: Tensor  # (latents,): the penalty of each latent, 1 for free ones

    def __init__(self, crosscoder: Crosscoder, settings: DesignatedSettings | DesignatedL1Settings) -> None:
        super().__init__(crosscoder, settings)
        designated = latents_of(settings.designated.share, crosscoder.latents)
        crosscoder.partition = {"designated": designated, "free": crosscoder.latents - designated}
        with torch.no_grad():
            crosscoder.decoder[:designated, CHAT] = crosscoder.decoder[:designated, BASE]
        penalties = torch.ones(crosscoder.latents, device=crosscoder.decoder.device)
        penalties[:designated] = settings.designated.penalty
        self.register_buffer("penalties", penalties, persistent=False)

    def limits(self) -> Limits:
        return Limits(
            norms="the loss ties both decoder directions of each designated latent, so the norm difference "
            "of these latents is 1/2 by construction; their class is set, not found",
            parts=("designated",),
        )

    def change_gradients(self, crosscoder: Crosscoder) -> None:
        """Give both decoder directions of a designated latent the same gradient."""
        gradient = made_gradient(crosscoder.decoder)[: crosscoder.partition["designated"]]
        gradient[:] = gradient.mean(dim=1, keepdim=True)


class DesignatedLoss(Designated, BatchTopKLoss):
    """BatchTopK with designated latents.

    The k x batch largest v_j / penalty_j are selected. At inference v_j counts above threshold x penalty_j,
    so each latent has a threshold of its own.
    """

    def __init__(self, crosscoder: Crosscoder, settings: DesignatedSettings) -> None:
        crosscoder.give_thresholds()
        super().__init__(crosscoder, settings)

    def weights(self, crosscoder: Crosscoder) -> Tensor:
        return super().weights(crosscoder) / self.penalties[:, None]

    def thresholds(self, crosscoder: Crosscoder, smallest: Tensor) -> Tensor:
        return smallest * self.penalties


class DesignatedL1Loss(Designated, L1Loss):
    """L1 with designated latents: each scaled activation counts penalty_j times in the penalty."""

    def weights(self, crosscoder: Crosscoder) -> Tensor:
        return super().weights(crosscoder) * self.penalties
