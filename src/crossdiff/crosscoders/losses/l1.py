"""L1: reconstruction plus the sum of scaled activations (docs/method.md 5)."""

import torch
from torch import Tensor

from crossdiff.config.crosscoders import PenaltyKeys
from crossdiff.crosscoders import selection
from crossdiff.crosscoders.losses.base import Loss, Parts, products_of, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder


class L1Loss(Loss):
    """loss = reconstruction error + mu * mean over the batch of sum_j f_j w_j (docs/method.md 5).

    w_j is the code weight. In the paper it is the sum of the latent's decoder norms.
    """

    settings: PenaltyKeys

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        weights = self.weights(crosscoder)
        encoder, flat = crosscoder.encoder_map(), x.flatten(1)
        with torch.no_grad():
            first, active = next(encoder.products(flat)), None
            if selection.is_sparse(encoder, first):
                active = selection.above(encoder, flat, torch.zeros_like(encoder.bias), first)
        if active is not None:
            active = selection.encoded(active, encoder, flat)
            reconstruction = crosscoder.decode_active(active)
            per_latent, fired = active.sum_per_latent(active.values), active.count_per_latent()
        else:
            with products_of(crosscoder, x):
                codes = crosscoder.preactivations(x).relu()
                reconstruction = crosscoder.decode(codes)
            per_latent, fired = codes.sum(dim=0, dtype=weights.dtype), (codes > 0).sum(dim=0)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        sparsity = per_latent @ weights / len(x)
        loss = error + self._coefficient(step) * sparsity
        return Parts(loss, {"reconstruction_loss": error, "sparsity_loss": sparsity}, reconstruction, fired)

    def weights(self, crosscoder: Crosscoder) -> Tensor:
        """Return w, the weight of each latent in the penalty, (latents,)."""
        return crosscoder.code_weights().reshape(crosscoder.latents, -1).sum(dim=1)

    def _coefficient(self, step: int) -> float:
        warmup = self.settings.l1_warmup_steps
        return self.settings.l1_coefficient * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
