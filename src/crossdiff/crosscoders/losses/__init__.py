"""The losses. ``config.LOSSES`` lists them, and docs/add-a-loss.md says how to add one."""

from pkgutil import resolve_name

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.model import DIFFERENCE, Crosscoder


def new_loss(crosscoder: Crosscoder, settings: CrosscoderSettings) -> Loss:
    """Make the loss that ``settings`` names. The crosscoder gets what later stages must say of it.

    Raises ValueError if the loss has no base decoder and does not say so.
    """
    loss: Loss = resolve_name(settings.objective)(crosscoder, settings)
    crosscoder.limits = loss.limits()
    if crosscoder.target == DIFFERENCE and not crosscoder.limits.base_decoder:
        raise ValueError(f"{settings.objective}: limits() must say why there is no base decoder")
    return loss
