"""The losses. Which there are: ``config.LOSSES``; how to add one: docs/add-a-loss.md."""

from pkgutil import resolve_name

from crossdiff.config import Crosscoder as Settings
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.model import Crosscoder


def new_loss(crosscoder: Crosscoder, settings: Settings) -> Loss:
    """The loss that ``settings`` names."""
    return resolve_name(settings.objective)(crosscoder, settings)
