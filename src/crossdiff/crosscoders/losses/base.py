"""The interface between a loss and the trainer, and the reconstruction error that all losses share."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.device import multiplies_bfloat16


class Parts(NamedTuple):
    """The loss of one step, and what the training log needs. Only ``loss`` is differentiated."""

    loss: Tensor  # ()
    log: dict[str, Tensor]  # named parts of the loss, each ()
    reconstruction: Tensor  # (batch, model, d_model)
    fired: Tensor  # (latents,) int64: in how many rows of the batch each latent was active


class Loss(nn.Module):
    """A training objective. Its state stands in buffers, because a checkpoint saves those."""

    def __init__(self, crosscoder: Crosscoder, settings: CrosscoderSettings) -> None:
        super().__init__()
        self.settings = settings

    def limits(self) -> Limits:
        """Say what of the results does not apply, or is set by the loss and not found by training."""
        return Limits()

    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """Prepare before the first step. ``x`` is the first batch (batch, model, d_model)."""

    def change_gradients(self, crosscoder: Crosscoder) -> None:
        """Change the gradients of the whole batch before they are clipped and used.

        A loss that holds weights at a value, or ties them to each other, does so here.
        """

    def after_step(self, crosscoder: Crosscoder, step: int) -> None:
        """Change weights after the optimiser has moved them at step ``step`` (0-based).

        A loss that masks or projects weights does so here.
        """

    def finish(self, crosscoder: Crosscoder, held_out: Iterable[Tensor]) -> None:
        """Finish after the last step.

        ``held_out`` yields batches (batch, model, d_model) of held-out activations on the crosscoder's scale.
        """

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        """Return the loss of one batch at training step ``step`` (0-based).

        ``x`` (batch, model, d_model) is on the crosscoder's scale.
        """
        raise NotImplementedError


def products_of(crosscoder: Crosscoder, x: Tensor) -> torch.autocast:
    """Return a context for dense products in the crosscoder's precision.

    Weights, sums and gradients stay float32.
    """
    wanted = crosscoder.precision == "bfloat16" and multiplies_bfloat16(x.device)
    return torch.autocast(x.device.type, torch.bfloat16, enabled=wanted)


def reconstruction_error(x: Tensor, reconstruction: Tensor, squared: bool) -> Tensor:
    """Return the mean over batch and models of ||x_m - xhat_m||_2, or of its square if ``squared``, ().

    ``x`` and ``reconstruction`` are (batch, model, d_model). Further dimensions before d_model are averaged.
    docs/method.md 5 has the formula.
    """
    error = (x - reconstruction).square().sum(dim=-1)
    return error.mean() if squared else (error + torch.finfo(error.dtype).tiny).sqrt().mean()
