"""The losses. Which there are: ``config.LOSSES``; how to add one: docs/add-a-loss.md."""

from pkgutil import resolve_name

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.model import Crosscoder


def new_loss(crosscoder: Crosscoder, settings: CrosscoderSettings) -> Loss:
    """The loss that ``settings`` names."""
    return resolve_name(settings.objective)(crosscoder, settings)
