"""Train one crosscoder on both models' caches."""

import copy
import csv
import itertools
import logging
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from crossdiff.activations.pairs import PairedActivations, Summary
from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders import kernels, ranks
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.gradients import made_gradient
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.base import Loss, Parts
from crossdiff.crosscoders.memory import check_room, training_bytes
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.optimiser import KernelAdam, new_optimiser
from crossdiff.device import keep_freed_memory, room, to_device
from crossdiff.errors import UserError
from crossdiff.provenance.storage import atomic_path, remove_temporaries

log = logging.getLogger(__name__)

# Entries of a batch that the two paths may choose differently, because float32 can't tell their values apart.
DIFFERENT_ENTRIES = 16


def learning_rate(step: int, settings: CrosscoderSettings) -> float:
    """Return the learning rate at ``step`` (0-based).

    It rises linearly from 0, stays constant, and falls linearly to 0 over the last ``decay_fraction`` of the
    steps.
    """
    warmup = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    decay_steps = round(settings.decay_fraction * settings.steps)
    decay = min(1.0, (settings.steps - step) / decay_steps) if decay_steps else 1.0
    return settings.learning_rate * min(warmup, decay)


class Source(Protocol):
    """Where activations come from: caches, or models that run."""

    layer: int
    d_model: int
    summary: Summary

    @property
    def tokens(self) -> int:
        """The number of tokens that count."""


def new_crosscoder(activations: Source, settings: CrosscoderSettings, seed: int) -> Crosscoder:
    """Return a crosscoder at its initial weights, with the mean and scale of the activations."""
    d_model = activations.d_model
    crosscoder = Crosscoder(
        d_model,
        settings.n_latents(d_model),
        activations.layer,
        settings.code_normalisation,
        settings.precision,
    )
    crosscoder.initialise(settings, torch.Generator().manual_seed(seed))
    mean, scale = activations.summary.scaling(settings.normalisation)
    crosscoder.mean.copy_(mean)
    crosscoder.scale.copy_(scale)
    return crosscoder


def fraction_of_variance_explained(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 - sum_d Var(x - xhat) / sum_d Var(x), (model,), with variances over the batch.

    ``x`` and ``reconstruction`` are (batch, model, d_model). docs/method.md 7 has the formula.
    """
    return 1 - (x - reconstruction).var(dim=0).sum(dim=1) / x.var(dim=0).sum(dim=1)


class TrainingLog:
    """The rows of ``training.csv``, one every ``log_every`` steps.

    The file grows while the training runs: each row replaces it by a whole one. Counters stay on the device
    between rows. Lines in the job's log begin with ``name``. FVE is that of what the crosscoder
    ``reconstructs``.
    """

    def __init__(
        self,
        settings: CrosscoderSettings,
        crosscoder: Crosscoder,
        device: torch.device,
        file: Path | None,
        name: str = "",
    ) -> None:
        self.settings, self.file, self.name = settings, file, name
        self.reconstructs = crosscoder.reconstructs
        self.rows: list[dict[str, Any]] = []
        self.fired = torch.zeros(crosscoder.latents, dtype=torch.long, device=device)
        self.steps = 0

    def add(self, step: int, x: Tensor, parts: Parts) -> None:
        """Count a step (0-based), and add a row if one is due. Raises UserError if the loss is not finite."""
        self.fired += ranks.total(parts.fired)
        self.steps += 1
        if not self.settings.is_logged(step):
            return
        tokens = self.steps * self.settings.batch
        reconstruction = parts.reconstruction.detach()
        fve = fraction_of_variance_explained(ranks.gathered(x)[0], ranks.gathered(reconstruction)[0]).tolist()
        loss, named = ranks.mean(parts.loss), {name: ranks.mean(value) for name, value in parts.log.items()}
        row = {
            "step": step + 1,
            "tokens": (step + 1) * self.settings.batch,
            "learning_rate": f"{learning_rate(step, self.settings):.4g}",
            "loss": f"{loss.item():.6g}",
            **{f"fve_{name}": f"{fve[place]:.4f}" for name, place in self.reconstructs.items()},
            "l0": f"{self.fired.sum().item() / tokens:.2f}",
            "dead": int((self.fired == 0).sum()),
        } | {name: f"{value.item():.6g}" for name, value in named.items()}
        self.rows.append(row)
        self.write()
        of_fve = [f"fve_{name}" for name in self.reconstructs]
        shown = ", ".join(f"{key} {row[key]}" for key in ("loss", *of_fve, "l0", "dead"))
        log.info("%sstep %d of %d: %s", self.name, step + 1, self.settings.steps, shown)
        if not torch.isfinite(loss):
            raise UserError(f"training: the loss is {row['loss']} at step {step + 1}; lower learning_rate")
        self.fired.zero_()
        self.steps = 0

    def write(self) -> None:
        """Write the rows that there are, if there is a file to write and any row."""
        if self.file is None or not self.rows:
            return
        with atomic_path(self.file) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


class Training:
    """A crosscoder in training, with everything that the next step depends on.

    Raises UserError if the training does not fit on the device.
    """

    def __init__(
        self,
        activations: Source,
        settings: CrosscoderSettings,
        seed: int,
        device: torch.device,
        training_log: Path | None = None,
        name: str = "",
    ) -> None:
        check_room(settings, activations.d_model, room(device), ranks.size())
        self.d_model, self.settings, self.seed, self.device = activations.d_model, settings, seed, device
        self.crosscoder = new_crosscoder(activations, settings, seed).to(device)
        self.loss = new_loss(self.crosscoder, settings).to(device)
        self.optimiser = new_optimiser(self.crosscoder, self.loss)
        self.log = TrainingLog(settings, self.crosscoder, device, training_log, name)
        self.done = 0  # steps
        self.compared = False  # whether the kernels, if they run, were compared with the plain path

    def step(self, batch: Tensor) -> None:
        """Make one step on this rank's share (rows, model, d_model) of a batch of raw activations."""
        x = self.crosscoder.normalise(to_device(batch, self.device))
        if self.done == 0:
            self.loss.start(self.crosscoder, x)
        if isinstance(self.optimiser, KernelAdam) and not self.compared:
            self.compared = True
            self.compare(self.optimiser, x)
        parts = self.loss(self.crosscoder, x, self.done)
        parts.loss.backward()
        self.optimiser.update(learning_rate(self.done, self.settings), self.settings.gradient_clip)
        with torch.no_grad():
            self.loss.after_step(self.crosscoder, self.done)
            if type(self.loss).after_step is not Loss.after_step:
                self.crosscoder.forget_known()  # it may have moved weights
        self.log.add(self.done, x, parts)
        self.done += 1

    def compare(self, optimiser: KernelAdam, x: Tensor) -> None:
        """Compare the loss and the gradients of the kernels with those of the plain path on one batch.

        ``x`` (rows, model, d_model) is on the crosscoder's scale. Raises UserError if they differ.
        """
        threshold = self.crosscoder.threshold.detach().clone()
        with kernels.off(), optimiser.made():
            expected = self._differentiate(x)
            # They go to main memory, because a resumed training already has its moments on the device.
            parameters = self.crosscoder.named_parameters()
            plain = {name: made_gradient(parameter).cpu() for name, parameter in parameters}
            self.crosscoder.zero_grad()
        self.crosscoder.threshold.detach().copy_(threshold)
        found = self._differentiate(x)
        self.crosscoder.threshold.detach().copy_(threshold)
        of_loss = (found.loss - expected.loss).abs() / expected.loss.abs()
        differences = torch.stack([*optimiser.differences(plain), of_loss])
        difference = differences.nan_to_num(nan=torch.inf).max().item()
        optimiser.forget()
        # One entry's share of the gradient's norm is about 1 / sqrt(entries).
        allowed = min(0.1, (DIFFERENT_ENTRIES / max(1, int(found.fired.sum()))) ** 0.5)
        if expected.loss.isfinite() and difference > allowed:
            raise UserError(
                f"training: found a relative difference of {difference:.1e} between the Triton kernels and "
                f"the plain path on one batch, allowed: {allowed:.0e}; set kernels: plain, "
                "and report it with the versions of torch, triton and the driver"
            )

    def _differentiate(self, x: Tensor) -> Parts:
        parts = copy.deepcopy(self.loss)(self.crosscoder, x, self.done)
        parts.loss.backward()
        return parts

    def run(self, activations: PairedActivations, checkpoint: Checkpoint | None = None) -> None:
        """Make all steps that are left. ``checkpoint`` is written when it is due."""
        settings = self.settings
        if self.done == settings.steps:
            return
        with closing(self.batches(activations, self.done)) as batches:
            for batch in itertools.islice(batches, settings.steps - self.done):
                self.step(batch)
                if checkpoint is not None and checkpoint.is_due():
                    checkpoint.write(*self.state())

    def bytes(self) -> int:
        """Return the bytes of a GPU that this training takes, without the pools of token pairs."""
        batch = self.settings.batch // ranks.size()
        return training_bytes(self.d_model, self.crosscoder.latents, batch)

    def batches(
        self, activations: PairedActivations, start: int = 0, reserved: int | None = None
    ) -> Generator[Tensor, None, None]:
        """Yield this rank's share of every batch, on the device, beginning with number ``start``.

        ``reserved`` are the bytes of a GPU that pools must leave to trainings, by default those of this one.
        Close the generator after use.
        """
        settings, size = self.settings, ranks.size()
        return activations.shuffled_batches(
            settings.batch,
            settings.buffer_tokens,
            self.seed,
            start,
            self.device,
            self.bytes() if reserved is None else reserved,
            (ranks.rank(), size),
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and plain values that ``resume`` needs.

        A training resumed from them has the same bits as one that was never interrupted, if the device is
        deterministic.
        """
        tensors = {f"crosscoder.{name}": value for name, value in self.crosscoder.state_dict().items()}
        tensors |= {f"loss.{name}": value for name, value in self.loss.state_dict().items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in moments.items()}
        tensors["log.fired"] = self.log.fired
        return tensors, {"done": self.done, "rows": self.log.rows, "steps_since_row": self.log.steps}

    def resume(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Load the state of this training from ``checkpoint``, if it has one. Returns its plain values."""
        if (saved := checkpoint.read()) is None:
            return {}
        tensors, values = saved
        parts: dict[str, dict[str, Tensor]] = {"crosscoder": {}, "loss": {}, "optimiser": {}, "log": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value.to(self.device)
        self.crosscoder.load_state_dict(parts["crosscoder"])
        self.loss.load_state_dict(parts["loss"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        self.log.fired.copy_(parts["log"]["fired"])
        self.done, self.log.rows, self.log.steps = values["done"], values["rows"], values["steps_since_row"]
        self.log.write()
        log.info("%sresumed after step %d of %d", self.log.name, self.done, self.settings.steps)
        return values

    def finish(self, held_out: PairedActivations | None) -> Crosscoder:
        """Return the trained crosscoder on the CPU. ``held_out`` is as in ``train``."""
        if self.settings.needs_held_out and held_out is not None:
            with closing(self.batches(held_out)) as batches:
                once = itertools.islice(batches, held_out.tokens // self.settings.batch)
                self.loss.finish(self.crosscoder, map(self.crosscoder.normalise, once))
        return self.crosscoder.cpu()


def train(
    activations: PairedActivations,
    settings: CrosscoderSettings,
    seed: int,
    device: torch.device,
    training_log: str | Path,
    held_out: PairedActivations | None = None,
    checkpoint: Checkpoint | None = None,
) -> Crosscoder:
    """Train a crosscoder and return it on the CPU.

    The CSV file ``training_log`` grows with the training. It gets the loss and its parts, FVE, L0, dead
    latents and the learning rate. Its column "dead" counts latents that did not fire since the row before.

    ``held_out`` is needed if the threshold is estimated after training (``settings.needs_held_out``). With a
    ``checkpoint`` an interrupted training goes on where it stopped.

    Raises UserError if the training does not fit on the device or the loss is not finite, and ValueError if
    ``held_out`` is needed but missing.
    """
    if settings.needs_held_out and held_out is None:
        raise ValueError("this training estimates its threshold on held-out activations, which are not given")
    keep_freed_memory()
    training = Training(activations, settings, seed, device, Path(training_log))
    latents, tokens = training.crosscoder.latents, activations.tokens
    log.info("training a %s crosscoder of %d latents on %d tokens", settings.loss, latents, tokens)
    if checkpoint is not None:
        remove_temporaries(
            training_log
        )  # of an attempt that was killed; the checkpoint's lock says it is dead
        training.resume(checkpoint)
    training.run(activations, checkpoint)
    return training.finish(held_out)
