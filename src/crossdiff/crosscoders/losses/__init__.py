"""The losses. ``config.LOSSES`` lists them, and docs/add-a-loss.md says how to add one."""

from pkgutil import resolve_name

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.model import Crosscoder


def new_loss(crosscoder: Crosscoder, settings: CrosscoderSettings) -> Loss:
    """Make the loss that ``settings`` names. The crosscoder gets what later stages must say of it."""
    loss: Loss = resolve_name(settings.objective)(crosscoder, settings)
    crosscoder.limits = loss.limits()
    return loss
