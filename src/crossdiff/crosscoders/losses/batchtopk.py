"""BatchTopK: keep the k x batch largest scaled activations of the whole batch (docs/method.md 6)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.config import BatchTopKSettings
from crossdiff.crosscoders import ranks, selection
from crossdiff.crosscoders.gradients import rows_of
from crossdiff.crosscoders.losses.base import Loss, Parts, products_of, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError


class BatchTopKLoss(Loss):
    """Reconstruction from the selected entries, plus an auxiliary loss that lets dead latents explain what is left."""

    settings: BatchTopKSettings

    def __init__(self, crosscoder: Crosscoder, settings: BatchTopKSettings) -> None:
        super().__init__(crosscoder, settings)
        self.register_buffer("tokens_since_fired", torch.zeros(crosscoder.latents, dtype=torch.long))
        self.tokens_until_dead = 0  # no latent can be dead before that many more tokens

    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """The decoder bias starts at the geometric median of the first batch."""
        with torch.no_grad():
            crosscoder.decoder_bias.copy_(geometric_median(ranks.gathered(x)[0]))
            crosscoder.threshold.fill_(-1.0)

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        encoder, flat = crosscoder.encoder_map(), x.flatten(1)
        with torch.no_grad():
            active, chosen, smallest = self._selected(crosscoder, x, self.k(step))
            self._update_threshold(crosscoder, smallest, step)
            fired = active.count_per_latent()
            self.tokens_since_fired += len(x) * ranks.size()
            self.tokens_since_fired.masked_fill_(ranks.total(fired) > 0, 0)
            dead = self._dead(
                len(x) * ranks.size()
            )  # before anything dear is queued that the device would have to finish
        active = selection.encoded(active, encoder, flat)
        reconstruction = crosscoder.decode_active(active, active.values * chosen)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        auxiliary = self._auxiliary(crosscoder, flat, (x - reconstruction).detach().flatten(1), dead)
        loss = error + self.settings.auxiliary_coefficient * auxiliary
        return Parts(loss, {"reconstruction_loss": error, "auxiliary_loss": auxiliary}, reconstruction, fired)

    @torch.no_grad()
    def finish(self, crosscoder: Crosscoder, held_out: Iterable[Tensor]) -> None:
        """The threshold ``held_out``: the mean over batches of the smallest selected scaled activation, with the final weights."""
        if self.settings.threshold == "held_out":
            smallest = torch.stack(
                [self._selected(crosscoder, x, self.settings.k).smallest for x in held_out]
            )
            chosen = smallest.isfinite()  # not where a batch has no positive entry
            if not chosen.any(dim=0).all():
                raise UserError(
                    "training: no latent is active on the held-out tokens, so that there is no threshold; train longer"
                )
            crosscoder.threshold.copy_(smallest.where(chosen, 0).sum(dim=0) / chosen.sum(dim=0))

    def _selected(self, crosscoder: Crosscoder, x: Tensor, k: int) -> selection.Selection:
        """The k x batch largest entries, which of them each model uses (1 or model, entries), and the smallest, shaped as the threshold."""
        weights = crosscoder.code_weights().reshape(crosscoder.latents, -1)
        selected = selection.largest(crosscoder.encoder_map(), x.flatten(1), weights, k * len(x))
        return selected._replace(smallest=selected.smallest.view_as(crosscoder.threshold))

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

    def _dead(self, tokens: int) -> Tensor:
        """The latents (dead,) that are dead now, ``tokens`` after the last call.

        The device is asked only when one may have died: not until the longest silent latent could have become dead. While some are dead,
        it is asked at every step.
        """
        self.tokens_until_dead -= tokens
        if self.tokens_until_dead > 0:
            return self.tokens_since_fired.new_empty(0)
        dead = (self.tokens_since_fired >= self.settings.dead_after_tokens).nonzero().squeeze(1)
        if not len(dead):
            self.tokens_until_dead = self.settings.dead_after_tokens - int(self.tokens_since_fired.max())
        return dead

    def _auxiliary(self, crosscoder: Crosscoder, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """Squared error of the residual (batch, width) rebuilt without bias from each token's strongest ``dead`` latents (dead,), over its
        variance."""
        k = self.settings.auxiliary_k
        if not len(dead):
            return x.new_zeros(())
        encoder = rows_of(crosscoder.encoder.flatten(1), dead, crosscoder.pieces.get("encoder"))
        decoder = rows_of(crosscoder.decoder.flatten(1), dead, crosscoder.pieces.get("decoder"))
        added = len(encoder) - len(dead)  # rows of zeros: their codes are 0, whatever their weight
        bias = functional.pad(crosscoder.encoder_bias[dead], (0, added))
        with products_of(crosscoder, x):
            codes = (x @ encoder.T + bias).relu()
            if len(dead) > k:
                weights = crosscoder.code_weights().detach().reshape(crosscoder.latents, -1).sum(dim=1)[dead]
                strongest = (
                    (codes.detach() * functional.pad(weights, (0, added)))
                    .topk(k, dim=1, sorted=False)
                    .indices
                )
                codes = codes * torch.zeros_like(codes).scatter_(1, strongest, 1)
            rebuilt = codes @ decoder
        variance = ranks.mean((residual - ranks.mean(residual.mean(dim=0))).square().sum(dim=1).mean())
        return torch.nan_to_num((rebuilt - residual).square().sum(dim=1).mean() / variance, posinf=0.0)


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
