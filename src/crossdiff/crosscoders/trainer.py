"""Training one crosscoder on both models' caches."""

import csv
import itertools
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from crossdiff.activations.pairs import MODELS, PairedActivations
from crossdiff.config import Crosscoder as Settings
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.base import Parts
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError

log = logging.getLogger(__name__)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up from 0 at the first step, constant, and over the last ``decay_fraction`` of the steps linear to 0."""
    warmup = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    decay_steps = round(settings.decay_fraction * settings.steps)
    decay = min(1.0, (settings.steps - step) / decay_steps) if decay_steps else 1.0
    return settings.learning_rate * min(warmup, decay)


def new_crosscoder(activations: PairedActivations, settings: Settings, seed: int) -> Crosscoder:
    """A crosscoder at its initial weights, with the activations' mean and scale."""
    d_model = activations.d_model
    crosscoder = Crosscoder(d_model, settings.n_latents(d_model), activations.layer, settings.code_normalisation)
    crosscoder.initialise(settings, torch.Generator().manual_seed(seed))
    mean, scale = activations.summary.scaling(settings.normalisation)
    crosscoder.mean.copy_(mean)
    crosscoder.scale.copy_(scale)
    return crosscoder


def fraction_of_variance_explained(x: Tensor, reconstruction: Tensor) -> Tensor:
    """(model,): 1 - sum_d Var(x - xhat) / sum_d Var(x), variances over the batch (paper.md a.10)."""
    return 1 - (x - reconstruction).var(dim=0).sum(dim=1) / x.var(dim=0).sum(dim=1)


class TrainingLog:
    """A CSV with one row every ``every`` steps. Counters stay on the device between rows."""

    def __init__(self, path: str | Path, settings: Settings, latents: int, device: torch.device) -> None:
        self.file = Path(path).open("w", newline="")
        self.settings = settings
        self.fired = torch.zeros(latents, dtype=torch.long, device=device)
        self.steps = 0
        self.writer: csv.DictWriter | None = None

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def add(self, step: int, x: Tensor, parts: Parts) -> None:
        self.fired += parts.fired
        self.steps += 1
        if (step + 1) % self.settings.log_every and step + 1 != self.settings.steps:
            return
        tokens = self.steps * self.settings.batch
        fve = fraction_of_variance_explained(x, parts.reconstruction.detach()).tolist()
        row = {
            "step": step + 1,
            "tokens": (step + 1) * self.settings.batch,
            "learning_rate": f"{learning_rate(step, self.settings):.4g}",
            "loss": f"{parts.loss.item():.6g}",
            **{f"fve_{model}": f"{value:.4f}" for model, value in zip(MODELS, fve, strict=True)},
            "l0": f"{self.fired.sum().item() / tokens:.2f}",
            "dead": int((self.fired == 0).sum()),
        } | {name: f"{value.item():.6g}" for name, value in parts.log.items()}
        if self.writer is None:
            self.writer = csv.DictWriter(self.file, row)
            self.writer.writeheader()
        self.writer.writerow(row)
        self.file.flush()
        shown = ", ".join(f"{key} {row[key]}" for key in ("loss", "fve_base", "fve_chat", "l0", "dead"))
        log.info("step %d of %d: %s", step + 1, self.settings.steps, shown)
        if not torch.isfinite(parts.loss):
            raise UserError(f"training: the loss is {row['loss']} at step {step + 1}; lower learning_rate")
        self.fired.zero_()
        self.steps = 0


def train(
    activations: PairedActivations,
    settings: Settings,
    seed: int,
    device: torch.device,
    training_log: str | Path,
    held_out: PairedActivations | None = None,
) -> Crosscoder:
    """Train from scratch and return the crosscoder. ``training_log`` gets the loss parts, FVE, L0, dead latents and learning rate.

    ``held_out`` is what a threshold estimated after training is taken from (``settings.needs_held_out``). "dead" in the log counts
    latents that did not fire since the row before. Raises UserError when the loss is not finite.
    """
    crosscoder = new_crosscoder(activations, settings, seed).to(device)
    loss = new_loss(crosscoder, settings).to(device)
    optimiser = torch.optim.Adam(crosscoder.parameters(), lr=settings.learning_rate, fused=True)
    batches = activations.shuffled_batches(settings.batch, settings.buffer_tokens, seed)
    with TrainingLog(training_log, settings, crosscoder.latents, device) as written:
        for step, batch in enumerate(itertools.islice(batches, settings.steps)):
            x = crosscoder.normalise(batch.to(device))
            if step == 0:
                loss.start(crosscoder, x)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, settings)
            parts = loss(crosscoder, x, step)
            parts.loss.backward()
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(crosscoder.parameters(), settings.gradient_clip)
            optimiser.step()
            optimiser.zero_grad()
            written.add(step, x, parts)
    if held_out is not None:
        once = itertools.islice(held_out.shuffled_batches(settings.batch, settings.buffer_tokens, seed), held_out.tokens // settings.batch)
        loss.finish(crosscoder, (crosscoder.normalise(batch.to(device)) for batch in once))
    return crosscoder.cpu()
