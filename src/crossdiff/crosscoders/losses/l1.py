"""L1: reconstruction plus the sum of scaled activations (paper.md a.5)."""

import torch
from torch import Tensor

from crossdiff.crosscoders import sparse
from crossdiff.crosscoders.losses.base import Loss, Parts, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder


class L1Loss(Loss):
    """loss = reconstruction + mu * mean_batch sum_j f_j w_j, with w_j the code weight (sum of decoder norms in the paper)."""

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        weights = crosscoder.code_weights().reshape(crosscoder.latents, -1).sum(dim=1)
        codes = crosscoder.preactivations(x).relu()
        if torch.count_nonzero(codes) < sparse.DENSE_ABOVE * codes.numel():
            active = sparse.Active.of(codes.detach())
            active = sparse.encoded(active, crosscoder.encoder.flatten(1), crosscoder.encoder_bias, x.flatten(1))
            reconstruction = crosscoder.decode_active(active)
            per_latent = active.sum_per_latent(active.values)
            fired = torch.bincount(active.latents, minlength=crosscoder.latents)
        else:
            reconstruction = crosscoder.decode(codes)
            per_latent = codes.sum(dim=0)
            fired = (codes > 0).sum(dim=0)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        sparsity = per_latent @ weights / len(x)
        loss = error + self._coefficient(step) * sparsity
        return Parts(loss, {"reconstruction_loss": error, "sparsity_loss": sparsity}, reconstruction, fired)

    def _coefficient(self, step: int) -> float:
        warmup = self.settings.l1_warmup_steps
        return self.settings.l1_coefficient * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
