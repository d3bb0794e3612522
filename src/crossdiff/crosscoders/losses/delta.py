"""Delta crosscoder: some latents must explain the difference between both models (docs/method.md 20).

Latents are in the order shared, free. Each class has its own selection: k shared and delta_k free latents per
token, on average. All selected latents reconstruct both models. The free ones alone must also reconstruct
x_chat - x_base.
"""

import torch
from torch import Tensor

from crossdiff.config import BASE, CHAT
from crossdiff.config.newer_losses import DeltaSettings, latents_of
from crossdiff.crosscoders import selection
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.losses.base import reconstruction_error
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss, Fit
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, Places, grouped_rows


class DeltaLoss(BatchTopKLoss):
    """loss = that of BatchTopK + delta_coefficient * the error of x_chat - x_base.

    The difference is reconstructed by sum over free j of f_j (d_j^chat - d_j^base), and by the difference of
    the biases. Shared and free latents have different thresholds at inference.
    """

    settings: DeltaSettings
    ends: Tensor  # (2,) int64: where both classes end

    def __init__(self, crosscoder: Crosscoder, settings: DeltaSettings) -> None:
        crosscoder.give_thresholds()
        super().__init__(crosscoder, settings)
        shared = latents_of(settings.shared, crosscoder.latents)
        crosscoder.partition = {"shared": shared, "free": crosscoder.latents - shared}
        ends = torch.tensor([shared, crosscoder.latents], device=crosscoder.decoder.device)
        self.register_buffer("ends", ends, persistent=False)

    def limits(self) -> Limits:
        return Limits(
            norms="the added loss rewards free latents whose two decoder directions differ, so compare norm "
            "differences within a part (shared or free), not between both"
        )

    def fit(self, crosscoder: Crosscoder, x: Tensor, active: Active, chosen: Tensor) -> Fit:
        decoder, pieces = crosscoder.decoder.flatten(1), crosscoder.pieces.get("decoder")
        parts = grouped_rows(decoder, active, self.ends, pieces)
        of_shared, of_free = parts.unflatten(2, x.shape[1:]).unbind(1)
        free_alone = of_free + crosscoder.decoder_bias
        reconstruction, squared = of_shared + free_alone, self.settings.squared_error
        error = reconstruction_error(x, reconstruction, squared)
        delta = reconstruction_error(difference(x), difference(free_alone), squared)
        loss = error + self.settings.delta_coefficient * delta
        return Fit(reconstruction, loss, {"reconstruction_loss": error, "delta_loss": delta})

    def _selected(self, crosscoder: Crosscoder, x: Tensor, k: int) -> selection.Selection:
        """Select in each class. ``smallest`` (latents,) is that of the latent's class."""
        shared, latents = crosscoder.partition["shared"], crosscoder.latents
        encoder, weights = crosscoder.encoder_map(), self.weights(crosscoder)
        places, values, smallest = [], [], []
        for part, count in ((slice(0, shared), k), (slice(shared, latents), self.settings.delta_k)):
            found = selection.largest(part_of(encoder, part), x.flatten(1), weights[part], count * len(x))
            places.append(found.active.rows * latents + found.active.latents + part.start)
            values.append(found.active.values)
            smallest.append(found.smallest.expand(part.stop - part.start))
        ascending, order = torch.cat(places).sort()
        active = Active(Places.of(ascending, (len(x), latents)), torch.cat(values)[order])
        chosen = torch.ones(1, len(order), dtype=torch.bool, device=x.device)
        return selection.Selection(active, chosen, torch.cat(smallest))


def difference(x: Tensor) -> Tensor:
    """Return x_chat - x_base, (batch, 1, d_model), from ``x`` (batch, model, d_model)."""
    return (x[:, CHAT] - x[:, BASE])[:, None]


def part_of(encoder: selection.Encoder, latents: slice) -> selection.Encoder:
    """Return the encoder of some ``latents`` alone, for a selection."""
    known = encoder.known and selection.Rounded(encoder.known.copy[latents], encoder.known.norms[:, latents])
    return selection.Encoder(encoder.weight[latents], encoder.bias[latents], encoder.precision, known)
