"""What every loss gives the trainer, and the reconstruction error that they share."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.device import multiplies_bfloat16


class Parts(NamedTuple):
    """One step's loss. ``loss`` has a graph; the rest is for the log and does not."""

    loss: Tensor
    log: dict[str, Tensor]  # named parts of the loss, scalars
    reconstruction: Tensor  # (batch, model, d_model)
    fired: Tensor  # (latents,) how often each latent was active in the batch


class Loss(nn.Module):
    """A training objective with its own state. Buffers and counters belong to a checkpoint."""

    def __init__(self, crosscoder: Crosscoder, settings: CrosscoderSettings) -> None:
        super().__init__()
        self.settings = settings

    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """Called once, before the first step, with the first batch (batch, model, d_model)."""

    def after_step(self, crosscoder: Crosscoder, step: int) -> None:
        """Called when the optimiser has moved the weights at training step ``step`` (0-based): here a loss masks or projects them."""

    def finish(self, crosscoder: Crosscoder, held_out: Iterable[Tensor]) -> None:
        """Called once, after the last step, with batches (batch, model, d_model) of held-out activations on the crosscoder's scale."""

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        """The loss of one batch on the crosscoder's scale at training step ``step`` (0-based)."""
        raise NotImplementedError


def products_of(crosscoder: Crosscoder, x: Tensor) -> torch.autocast:
    """A context in which dense products are of the crosscoder's precision; weights, sums and gradients stay float32."""
    wanted = crosscoder.precision == "bfloat16" and multiplies_bfloat16(x.device)
    return torch.autocast(x.device.type, torch.bfloat16, enabled=wanted)


def reconstruction_error(x: Tensor, reconstruction: Tensor, squared: bool) -> Tensor:
    """Mean over batch and models of ||x_m - xhat_m||_2, or of its square (docs/method.md 5)."""
    error = (x - reconstruction).square().sum(dim=2)
    return error.mean() if squared else (error + torch.finfo(error.dtype).tiny).sqrt().mean()
