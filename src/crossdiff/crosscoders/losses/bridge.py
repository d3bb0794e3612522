"""Bridge: a loss between a crosscoder and an autoencoder of the difference (docs/method.md 21).

With the errors e_m = x_m - xhat_m it is ||e_base||^2 + ||e_chat||^2 + 2 lambda <e_base, e_chat>. At lambda 0
this is the squared error of both models. At -1 it is ||e_chat - e_base||^2, so errors that both models share
cost nothing. At 1 it is ||e_chat + e_base||^2.
"""

from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.config.newer_losses import BridgeSettings
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss, Fit
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active


class BridgeLoss(BatchTopKLoss):
    """BatchTopK with that error, as a mean over the batch. It is bounded from below for |lambda| <= 1."""

    settings: BridgeSettings

    def limits(self) -> Limits:
        coupling = self.settings.coupling
        if not coupling:
            return Limits()
        kind = "difference" if coupling < 0 else "sum"
        errors = f"the loss couples the errors of both models (lambda {coupling:g}), so it does not train"
        norms = f"at lambda {coupling:g} only the {kind} of both decoder directions is trained"
        return Limits(
            errors=f"{errors} the FVE of each model",
            norms=f"{norms}, so norm differences depend on the start" if abs(coupling) == 1 else "",
        )

    def fit(self, crosscoder: Crosscoder, x: Tensor, active: Active, chosen: Tensor) -> Fit:
        reconstruction = crosscoder.decode_active(active, active.values * chosen)
        errors = x - reconstruction
        squares = errors.square().sum(dim=(1, 2))
        shared = (errors[:, BASE] * errors[:, CHAT]).sum(dim=1)
        loss = (squares + 2 * self.settings.coupling * shared).mean()
        return Fit(reconstruction, loss, {"reconstruction_loss": loss})
