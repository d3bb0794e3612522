"""The losses. Adding one: a settings class in ``config``, a file here, a line in LOSSES (docs/add-a-loss.md)."""

from crossdiff.crosscoders.losses.base import Loss, Parts
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss
from crossdiff.crosscoders.losses.l1 import L1Loss

LOSSES: dict[str, type[Loss]] = {"batchtopk": BatchTopKLoss, "l1": L1Loss}

__all__ = ["LOSSES", "Loss", "Parts"]
