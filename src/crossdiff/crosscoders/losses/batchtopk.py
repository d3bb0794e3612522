"""BatchTopK: keep the k x batch largest scaled activations of the whole batch (docs/method.md 6)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.config.crosscoders import TopKKeys
from crossdiff.crosscoders import ranks, selection
from crossdiff.crosscoders.gradients import rows_of
from crossdiff.crosscoders.losses.base import Loss, Parts, products_of, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active
from crossdiff.errors import UserError


class Fit(NamedTuple):
    """How well the selected entries reconstruct a batch."""

    reconstruction: Tensor  # (batch, model, d_model)
    loss: Tensor  # (): the loss without its auxiliary part
    log: dict[str, Tensor]  # named parts of ``loss``, each ()


class BatchTopKLoss(Loss):
    """Reconstruction error of the selected entries, plus an auxiliary loss (docs/method.md 6).

    In the auxiliary loss, dead latents reconstruct what the selected entries leave over.
    """

    settings: TopKKeys
    tokens_since_fired: Tensor  # (latents,) int64

    def __init__(self, crosscoder: Crosscoder, settings: TopKKeys) -> None:
        super().__init__(crosscoder, settings)
        self.register_buffer("tokens_since_fired", torch.zeros(crosscoder.latents, dtype=torch.long))
        self.tokens_until_dead = 0  # no latent can die before that many more tokens

    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """Set the decoder bias to the geometric median of the first batch (docs/method.md 2)."""
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
            # This may wait for the device, so it comes before the expensive work is queued.
            dead = self._dead(len(x) * ranks.size())
        active = selection.encoded(active, encoder, flat)
        fit = self.fit(crosscoder, x, active, chosen)
        residual = (x - fit.reconstruction).detach().flatten(1)
        auxiliary = self._auxiliary(crosscoder, flat, residual, dead)
        loss = fit.loss + self.settings.auxiliary_coefficient * auxiliary
        return Parts(loss, fit.log | {"auxiliary_loss": auxiliary}, fit.reconstruction, fired)

    def fit(self, crosscoder: Crosscoder, x: Tensor, active: Active, chosen: Tensor) -> Fit:
        """Reconstruct ``x`` from the selected entries. Variants of this loss measure the error differently.

        ``chosen`` (1 or model, entries) says which models chose each entry of ``active``.
        """
        reconstruction = crosscoder.decode_active(active, active.values * chosen)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        return Fit(reconstruction, error, {"reconstruction_loss": error})

    def weights(self, crosscoder: Crosscoder) -> Tensor:
        """Return the weights of codes in the selection, (latents, 1), or (latents, model) if decoupled."""
        return crosscoder.code_weights().reshape(crosscoder.latents, -1)

    def thresholds(self, crosscoder: Crosscoder, smallest: Tensor) -> Tensor:
        """Return what the crosscoder's ``threshold`` is if ``smallest`` (1 or model,) was selected last."""
        return smallest.view_as(crosscoder.threshold)

    @torch.no_grad()
    def finish(self, crosscoder: Crosscoder, held_out: Iterable[Tensor]) -> None:
        """Set the threshold if it is to come from held-out batches (docs/method.md 6).

        It is the mean over batches of the smallest selected scaled activation, with the final weights. Raises
        UserError if no latent is active on the held-out tokens.
        """
        if self.settings.threshold == "held_out":
            k = self.settings.k
            smallest = torch.stack([self._selected(crosscoder, x, k).smallest for x in held_out])
            chosen = smallest.isfinite()  # False where a batch has no positive entry
            if not chosen.any(dim=0).all():
                raise UserError(
                    "training: no latent is active on the held-out tokens, so there is no threshold; "
                    "train longer"
                )
            crosscoder.threshold.copy_(smallest.where(chosen, 0).sum(dim=0) / chosen.sum(dim=0))

    def _selected(self, crosscoder: Crosscoder, x: Tensor, k: int) -> selection.Selection:
        """Select the k x batch largest entries. ``smallest`` gets the shape of the threshold."""
        encoder, weights = crosscoder.encoder_map(), self.weights(crosscoder)
        selected = selection.largest(encoder, x.flatten(1), weights, k * len(x))
        return selected._replace(smallest=self.thresholds(crosscoder, selected.smallest))

    def k(self, step: int) -> int:
        """Return the number of active latents per token at ``step``.

        It goes linearly from k_max to k during the first k_annealing_steps steps.
        """
        settings = self.settings
        if settings.k_max is None or step >= settings.k_annealing_steps:
            return settings.k
        return round(settings.k_max + (settings.k - settings.k_max) * step / settings.k_annealing_steps)

    def _update_threshold(self, crosscoder: Crosscoder, smallest: Tensor, step: int) -> None:
        """Update the running mean of the smallest selected scaled activation.

        The first value replaces the -1 that ``start`` sets.
        """
        if step < self.settings.threshold_start_step:
            return
        decay = torch.where(crosscoder.threshold < 0, 0.0, self.settings.threshold_decay)
        moved = decay * crosscoder.threshold + (1 - decay) * smallest
        crosscoder.threshold.copy_(torch.where(smallest.isfinite(), moved, crosscoder.threshold))

    def _dead(self, tokens: int) -> Tensor:
        """Return the latents (dead,) that are dead now. ``tokens`` tokens have passed since the last call.

        The device is asked only once the latent that was silent longest could have died. While some latents
        are dead, it is asked at every step.
        """
        self.tokens_until_dead -= tokens
        if self.tokens_until_dead > 0:
            return self.tokens_since_fired.new_empty(0)
        dead = (self.tokens_since_fired >= self.settings.dead_after_tokens).nonzero().squeeze(1)
        if not len(dead):
            self.tokens_until_dead = self.settings.dead_after_tokens - int(self.tokens_since_fired.max())
        return dead

    def _auxiliary(self, crosscoder: Crosscoder, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """Return the auxiliary loss (docs/method.md 6), ().

        Each token's strongest latents among ``dead`` (dead,) rebuild ``residual`` (batch, width) from ``x``
        (batch, width), without a bias. The loss is the squared error over the residual's variance.
        """
        k = self.settings.auxiliary_k
        if not len(dead):
            return x.new_zeros(())
        encoder = rows_of(crosscoder.encoder.flatten(1), dead, crosscoder.pieces.get("encoder"))
        decoder = rows_of(crosscoder.decoder.flatten(1), dead, crosscoder.pieces.get("decoder"))
        added = len(encoder) - len(dead)  # rows of zeros, whose codes are 0 for any weight
        bias = functional.pad(crosscoder.encoder_bias[dead], (0, added))
        with products_of(crosscoder, x):
            codes = (x @ encoder.T + bias).relu()
            if len(dead) > k:
                weights = crosscoder.code_weights().detach().reshape(crosscoder.latents, -1).sum(dim=1)[dead]
                weights = functional.pad(weights, (0, added))
                strongest = (codes.detach() * weights).topk(k, dim=1, sorted=False).indices
                codes = codes * torch.zeros_like(codes).scatter_(1, strongest, 1)
            rebuilt = codes @ decoder
        variance = ranks.mean((residual - ranks.mean(residual.mean(dim=0))).square().sum(dim=1).mean())
        return torch.nan_to_num((rebuilt - residual).square().sum(dim=1).mean() / variance, posinf=0.0)


def geometric_median(x: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """Return the point with the least summed distance to the rows of ``x``, for each model.

    ``x`` is (batch, model, d_model), the result (model, d_model). The algorithm is that of Weiszfeld (1937).
    It stops when the point moves by less than ``tolerance``.
    """
    median = x.mean(dim=0)
    for _ in range(iterations):
        weights = 1 / (x - median).norm(dim=2, keepdim=True).clamp_min(1e-8)  # (batch, model, 1)
        updated = (x * weights).sum(dim=0) / weights.sum(dim=0)
        if ((updated - median).norm(dim=1) < tolerance).all():
            return updated
        median = updated
    return median
