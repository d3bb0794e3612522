"""What a training takes of a GPU's memory, and whether it fits. Torch-free: the forecast asks too."""

from crossdiff.config import MODELS, CrosscoderSettings
from crossdiff.errors import UserError


def _per_latent(d_model: int) -> int:
    """Bytes of a latent's weights in encoder and decoder, their gradients and two moments, in float32."""
    return 4 * 4 * 2 * len(MODELS) * d_model


PER_CODE = 6 * 4  # bytes of a latent in a batch's row: several passes over the codes are there at once


def training_bytes(d_model: int, latents: int, batch: int) -> int:
    """Of a training with ``batch`` rows a process, without the pools of token pairs."""
    return latents * (_per_latent(d_model) + PER_CODE * batch)


def check_room(settings: CrosscoderSettings, d_model: int, usable: float, processes: int = 1) -> None:
    """Raises UserError where a training needs more than the ``usable`` bytes of a GPU, with what would fit. ``processes`` share a batch."""
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
        f"crosscoders: {found} need {needed / 1e9:.1f} GB of the GPU, {usable / 1e9:.1f} GB are free; allowed: {fits}"
    )
