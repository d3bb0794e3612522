"""JumpReLU: each latent learns the threshold above which it counts (docs/method.md 19).

A scaled activation v_j = f_j w_j counts if it exceeds theta_j > 0. The weight is log theta_j, so a step moves
theta_j by a share of itself, whatever the scale of activations. The loss is the reconstruction error + lambda
times the number of active latents per token. Both jump where theta_j passes v_j, so they have no useful
gradient by theta_j. It is estimated from entries in a window around theta_j, as if each jump were a slope of
the window's width (a straight-through estimator).
"""

import torch
from torch import Tensor

from crossdiff.config.newer_losses import JumpReLUSettings
from crossdiff.crosscoders import selection
from crossdiff.crosscoders.losses.base import Loss, Parts, reconstruction_error
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError


class JumpReLULoss(Loss):
    """loss = reconstruction error + lambda * mean over the batch of the number of v_j > theta_j.

    With eps the width of the window, an entry |v_j - theta_j| < eps / 2 has these gradients by theta_j:
    -1 / eps of its count, and -(theta_j / w_j) / eps of its activation. Other entries have none.
    """

    settings: JumpReLUSettings
    window: Tensor  # (): eps, in units of scaled activations

    def __init__(self, crosscoder: Crosscoder, settings: JumpReLUSettings) -> None:
        super().__init__(crosscoder, settings)
        crosscoder.give_thresholds(learned=True)
        self.register_buffer("window", torch.zeros(()))

    @torch.no_grad()
    def start(self, crosscoder: Crosscoder, x: Tensor) -> None:
        """Set all thresholds so that ``initial_l0`` latents per token of the first batch are active.

        The window is ``bandwidth`` times that threshold. Raises UserError if no latent is active at all.
        """
        weights = crosscoder.code_weights()[:, None]
        count = self.settings.initial_l0 * len(x)
        threshold = selection.largest(crosscoder.encoder_map(), x.flatten(1), weights, count).smallest[0]
        if not threshold.isfinite():
            raise UserError("training: no latent is active on the first batch; raise init_norm or latents")
        _log_threshold(crosscoder).fill_(threshold.log())
        self.after_step(crosscoder, step=0)
        self.window.copy_(self.settings.bandwidth * threshold)

    def after_step(self, crosscoder: Crosscoder, step: int) -> None:
        """Let the crosscoder have the thresholds that the optimiser has moved."""
        crosscoder.threshold.copy_(_log_threshold(crosscoder).exp())

    def forward(self, crosscoder: Crosscoder, x: Tensor, step: int) -> Parts:
        encoder, flat = crosscoder.encoder_map(), x.flatten(1)
        thresholds = _log_threshold(crosscoder).exp()
        with torch.no_grad():
            weights = crosscoder.code_weights()
            lowest = (thresholds - self.window / 2) / weights
            near = selection.above(encoder, flat, lowest.nan_to_num(nan=torch.inf))
        near = selection.encoded(near, encoder, flat)
        count, values = self._jump(near.values, weights[near.latents], thresholds[near.latents])
        active = near._replace(values=values)
        reconstruction = crosscoder.decode_active(active)
        error = reconstruction_error(x, reconstruction, self.settings.squared_error)
        l0 = count.sum() / len(x)
        loss = error + self._coefficient(step) * l0
        log = {"reconstruction_loss": error, "l0_loss": l0}
        return Parts(loss, log, reconstruction, active.count_per_latent())

    def _jump(self, values: Tensor, weights: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Return which entries are active (0 or 1), and their activations, both (entries,).

        ``values``, ``weights`` and ``thresholds`` (entries,) are f, w and theta of each entry.
        """
        theta, scaled = thresholds.detach(), values.detach() * weights
        is_active = (scaled > theta).to(values.dtype)
        inside = ((scaled - theta).abs() < self.window / 2).to(values.dtype) / self.window
        estimate = inside * (theta - thresholds)  # 0, with the gradient -1 / eps inside of the window
        return is_active + estimate, values * is_active + theta / weights * estimate

    def _coefficient(self, step: int) -> float:
        warmup = self.settings.l0_warmup_steps
        return self.settings.l0_coefficient * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def _log_threshold(crosscoder: Crosscoder) -> Tensor:
    if crosscoder.log_threshold is None:
        raise ValueError("this crosscoder's thresholds are not learned")
    return crosscoder.log_threshold
