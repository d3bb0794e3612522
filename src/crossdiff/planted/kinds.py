"""The kinds of planted concepts. Without torch, which scores need not wait for."""

from crossdiff.config import PlantedConcepts

KINDS = tuple(PlantedConcepts.model_fields)
NONE = -1  # a latent that stands for no planted concept
