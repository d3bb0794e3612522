"""How much of a GPU's memory a training takes, and whether it fits.

This module does not import torch, because the forecast uses it, too.
"""

import itertools
from collections.abc import Sequence

from crossdiff.config import MODELS, CrosscoderSettings
from crossdiff.errors import UserError


def _per_latent(d_model: int) -> int:
    """Return the bytes of one latent: its float32 weights in both matrices, their gradients and moments."""
    return 4 * 4 * 2 * len(MODELS) * d_model


PER_CODE = 6 * 4  # bytes of one latent in one row of a batch: several tensors of that size exist at once


def training_bytes(d_model: int, latents: int, batch: int) -> int:
    """Return the bytes that a training takes with ``batch`` rows per process.

    The pools of token pairs are not included.
    """
    return latents * (_per_latent(d_model) + PER_CODE * batch)


def of_each(trainings: Sequence[CrosscoderSettings], d_model: int) -> list[int]:
    """Return the bytes of each of several trainings of one process."""
    return [training_bytes(d_model, one.n_latents(d_model), one.batch) for one in trainings]


def fitting(trainings: Sequence[CrosscoderSettings], d_model: int, usable: float) -> int:
    """Return how many of the first trainings fit into ``usable`` bytes. The first one always counts."""
    return max(1, sum(total <= usable for total in itertools.accumulate(of_each(trainings, d_model))))


def check_room(settings: CrosscoderSettings, d_model: int, usable: float, processes: int = 1) -> None:
    """Check that a training fits into the ``usable`` bytes of each GPU.

    ``processes`` share a batch. Raises UserError if the training does not fit, and the message says what
    would.
    """
    latents, batch = settings.n_latents(d_model), settings.batch // processes
    needed = training_bytes(d_model, latents, batch)
    if needed <= usable:
        return
    fewer = int(usable) // (_per_latent(d_model) + PER_CODE * batch)
    smaller = (int(usable) // latents - _per_latent(d_model)) // PER_CODE * processes
    fits = f"latents up to {fewer:,}" if settings.latents else f"expansion up to {fewer // d_model}"
    if smaller > 0:
        fits += f", or batch up to {smaller:,}"
    found = f"{latents:,} latents of width {len(MODELS)} x {d_model:,} with batch {settings.batch:,}"
    raise UserError(
        f"crosscoders: {found} need {needed / 1e9:.1f} GB of the GPU, "
        f"{usable / 1e9:.1f} GB are free; allowed: {fits}"
    )
