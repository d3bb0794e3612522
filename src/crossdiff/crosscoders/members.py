"""A process may make several trainings. This module keeps apart what belongs to each of them.

That is its outputs, its checkpoint, and what becomes of its errors.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders import handover
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.trainer import Source, Training
from crossdiff.errors import UserError
from crossdiff.provenance.recording import check_unchanged
from crossdiff.provenance.storage import remove_temporaries, writing_for

log = logging.getLogger(__name__)


class Member:
    """One of several trainings. ``training`` is None before it starts, and again once it ends or fails.

    With ``waits`` its results wait until its job takes them (``handover``). Lines in the log begin with
    ``prefix``.
    """

    def __init__(self, order: Order, checkpoint: Checkpoint, waits: bool, prefix: str = "") -> None:
        self.order, self.checkpoint, self.waits, self.prefix = order, checkpoint, waits, prefix
        self.outputs = handover.waiting(order) if waits else order.outputs
        self.training: Training | None = None
        # Pools that it has used, and batches of the next one. Only a training without caches has them.
        self.place = 0, 0
        self.held_out: PairedActivations | None = None
        self.error: Exception | None = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, files are written for this training, and an error ends this training alone."""
        try:
            with writing_for(self.order.identity) if self.waits else nullcontext():
                yield
        except Exception as error:
            self.training, self.error = None, error
            if self.waits:
                self._leave(error)

    def _leave(self, error: Exception) -> None:
        """Leave a UserError to the training's job. After another error that job trains."""
        if not isinstance(error, UserError):
            log.error("%sended by an error:", self.prefix, exc_info=error)
            return
        log.error("%sfailed: %s", self.prefix, error)
        try:
            handover.leave(self.order, error)
        except UserError as unwritten:  # the disk is full
            log.error("%s%s", self.prefix, unwritten)

    def start(self, activations: Source, device: torch.device) -> None:
        """Prepare the first step, or the first one after the checkpoint."""
        order, file = self.order, Path(self.outputs.log)
        if order.settings.needs_held_out:
            self.held_out = PairedActivations.of(order.inputs, "held_out_")
        training = Training(activations, order.settings, order.seed, device, file, self.prefix)
        what = f"a {order.settings.loss} crosscoder of {training.crosscoder.latents} latents"
        log.info("%straining %s on %d tokens", self.prefix, what, activations.tokens)
        remove_temporaries(file)  # of an attempt that was killed; the checkpoint's lock says it is dead
        self.place = tuple(training.resume(self.checkpoint).get("place", self.place))
        self.training = training

    def write_checkpoint(self, training: Training) -> None:
        """Write the state from which the next attempt goes on. Raises SystemExit after SIGTERM."""
        tensors, values = training.state()
        self.checkpoint.write(tensors, values | {"place": self.place})

    def end_if_trained(self) -> None:
        """Write the results once no step is left."""
        training, order = self.training, self.order
        if training is None or training.done < order.settings.steps:
            return
        settings = order.settings.model_dump(mode="json") | {"seed": order.seed}
        training.finish(self.held_out).save(self.outputs.weights, self.outputs.config, training=settings)
        if self.waits:
            check_unchanged(list(order.read))
            handover.leave(order)
        self.checkpoint.remove()
        self.training = None


def write_checkpoints(members: Sequence[Member]) -> None:
    """Write the checkpoints that are due. After SIGTERM that is all of them, before the process exits."""
    exited: SystemExit | None = None
    for member in members:
        if member.training and member.checkpoint.is_due():
            try:
                with member.apart():
                    member.write_checkpoint(member.training)
            except SystemExit as end:
                exited = end
    if exited is not None:
        raise exited
