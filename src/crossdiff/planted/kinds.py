"""The kinds of planted concepts. This module needs no torch, so that scores are computed without it."""

from crossdiff.config import PlantedConcepts

KINDS = tuple(PlantedConcepts.model_fields)
NONE = -1  # a latent that stands for no planted concept
