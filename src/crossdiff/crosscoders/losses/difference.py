"""A sparse autoencoder of the difference x_chat - x_base (docs/method.md 22).

It is a crosscoder whose activations are 0 for the base model and the difference for the chat model
(``Crosscoder.normalise``). Its base weights are 0 and get no gradient. So codes, directions and the selection
work as for other losses, but there is no base decoder. What compares both decoders does not apply.
"""

import torch
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.config.newer_losses import DifferenceSettings
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.losses.base import reconstruction_error
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss, Fit
from crossdiff.crosscoders.model import DIFFERENCE, Crosscoder
from crossdiff.crosscoders.sparse import Active


class DifferenceLoss(BatchTopKLoss):
    """BatchTopK on the difference. The error is a mean over the batch, of the difference alone."""

    settings: DifferenceSettings

    def __init__(self, crosscoder: Crosscoder, settings: DifferenceSettings) -> None:
        super().__init__(crosscoder, settings)
        crosscoder.target = DIFFERENCE
        with torch.no_grad():
            crosscoder.encoder[:, BASE] = 0
            crosscoder.decoder[:, BASE] = 0

    def limits(self) -> Limits:
        return Limits(base_decoder="a difference SAE has no base decoder")

    def fit(self, crosscoder: Crosscoder, x: Tensor, active: Active, chosen: Tensor) -> Fit:
        reconstruction = crosscoder.decode_active(active)
        error = reconstruction_error(x[:, CHAT:], reconstruction[:, CHAT:], self.settings.squared_error)
        return Fit(reconstruction, error, {"reconstruction_loss": error})
