"""BatchTopK: keep the k x batch largest scaled activations of the whole batch (paper.md a.6)."""

import torch
from torch import Tensor

from crossdiff.config import BatchTopK as Settings
from crossdiff.crosscoders import sparse
from crossdiff.crosscoders.losses.base import Loss, Parts, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder


class BatchTopKLoss(Loss):
    """Reconstruction from the selected entries, plus an auxiliary loss that lets dead latents explain what is left."""

    settings: Settings

    def __init__(self, crosscoder: Crosscoder, settings: Settings) -> None:
        super().__init__(crosscoder, settings)
        self.register_buffer("tokens_since_fired", torch.zeros(crosscoder.latents, dtype=torch.long))

    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """The decoder bias starts at the geometric median of the first batch."""
        with torch.no_grad():
            crosscoder.decoder_bias.copy_(geometric_median(x))
            crosscoder.threshold.fill_(-1.0)

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        with torch.no_grad():
            codes = crosscoder.preactivations(x).relu_()
            scaled = codes * crosscoder.code_weights()
            active, smallest = select(codes, scaled, self.k(step) * len(x))
            self._update_threshold(crosscoder, smallest, step)
        active = sparse.encoded(active, crosscoder.encoder.flatten(1), crosscoder.encoder_bias, x.flatten(1))
        reconstruction = crosscoder.decode_active(active)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        fired = torch.bincount(active.latents, minlength=crosscoder.latents)
        self.tokens_since_fired += len(x)
        self.tokens_since_fired.masked_fill_(fired > 0, 0)
        auxiliary = self._auxiliary(crosscoder, x, scaled, (x - reconstruction).detach())
        loss = error + self.settings.auxiliary_coefficient * auxiliary
        return Parts(loss, {"reconstruction_loss": error, "auxiliary_loss": auxiliary}, reconstruction, fired)

    def k(self, step: int) -> int:
        """Active latents per token at a step: linear from k_max to k over the annealing steps."""
        settings = self.settings
        if step >= settings.k_annealing_steps:
            return settings.k
        return round(settings.k_max + (settings.k - settings.k_max) * step / settings.k_annealing_steps)

    def _update_threshold(self, crosscoder: Crosscoder, smallest: Tensor, step: int) -> None:
        """Running mean of the smallest selected scaled activation; the first value replaces the -1 of the start."""
        if step < self.settings.threshold_start_step:
            return
        decay = torch.where(crosscoder.threshold < 0, 0.0, self.settings.threshold_decay)
        moved = decay * crosscoder.threshold + (1 - decay) * smallest
        crosscoder.threshold.copy_(torch.where(smallest.isfinite(), moved, crosscoder.threshold))

    def _auxiliary(self, crosscoder: Crosscoder, x: Tensor, scaled: Tensor, residual: Tensor) -> Tensor:
        """Squared error of the residual rebuilt (without bias) from each token's strongest dead latents, over the residual's variance."""
        dead = (self.tokens_since_fired >= self.settings.dead_after_tokens).nonzero().squeeze(1)
        if not len(dead):
            return x.new_zeros(())
        k = min(self.settings.auxiliary_k, len(dead))
        strongest = dead[scaled[:, dead].topk(k, dim=1).indices]  # (batch, k)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(k)
        codes = (x.flatten(1) @ crosscoder.encoder.flatten(1)[dead].T + crosscoder.encoder_bias[dead]).relu()
        values = codes.gather(1, torch.searchsorted(dead, strongest))
        active = sparse.Active(rows, strongest.flatten(), values.flatten(), tuple(scaled.shape))
        rebuilt = sparse.weighted_rows(crosscoder.decoder.flatten(1), active)
        target = residual.flatten(1)
        variance = (target - target.mean(dim=0)).square().sum(dim=1).mean()
        return torch.nan_to_num((rebuilt - target).square().sum(dim=1).mean() / variance, posinf=0.0)


def select(codes: Tensor, scaled: Tensor, count: int) -> tuple[sparse.Active, Tensor]:
    """The entries of ``codes`` (batch, latents) with the ``count`` largest positive ``scaled`` values, and the smallest of these values
    (infinite where there is none)."""
    flat = sparse.largest(scaled.flatten(), count)
    values = scaled.flatten()[flat]
    positive = values > 0
    smallest = torch.where(positive, values, torch.inf).min()
    return sparse.Active.at(flat[positive], codes), smallest


def geometric_median(x: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point with the least summed distance to the rows, per model: (model, d_model) from (batch, model, d_model). Weiszfeld (1937)."""
    median = x.mean(dim=0)
    for _ in range(iterations):
        weights = 1 / (x - median).norm(dim=2, keepdim=True).clamp_min(1e-8)  # (batch, model, 1)
        updated = (x * weights).sum(dim=0) / weights.sum(dim=0)
        if ((updated - median).norm(dim=1) < tolerance).all():
            return updated
        median = updated
    return median
