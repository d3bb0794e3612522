"""Train crosscoders of one pair and layer in one process, over one reading of the caches.

Trainings that read the same stream of batches make each step one after another, on the same batch. Each has
its own weights, loss, optimiser, log and checkpoint, so each gets the bits that it gets alone. Streams follow
one another.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import torch

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders import handover
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.memory import training_bytes
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import keep_freed_memory, usable_memory
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
        self.held_out: PairedActivations | None = None
        self.error: Exception | None = None

    @property
    def stream(self) -> tuple[int, int, int]:
        """What decides which tokens each batch holds."""
        return self.order.seed, self.order.settings.batch, self.order.settings.buffer_tokens

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

    def start(self, activations: PairedActivations, device: torch.device) -> None:
        """Prepare the first step, or the first one after the checkpoint."""
        order, file = self.order, Path(self.outputs.log)
        if order.settings.needs_held_out:
            self.held_out = PairedActivations.of(order.inputs, "held_out_")
        training = Training(activations, order.settings, order.seed, device, file, self.prefix)
        what = f"a {order.settings.loss} crosscoder of {training.crosscoder.latents} latents"
        log.info("%straining %s on %d tokens", self.prefix, what, activations.tokens)
        remove_temporaries(file)  # of an attempt that was killed; the checkpoint's lock says it is dead
        training.resume(self.checkpoint)
        self.training = training

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


def train_all(own: Order, others: Iterable[Order], device: torch.device) -> None:
    """Make the ``own`` training of a job, and ``others`` that read the same caches.

    Interrupted trainings go on from their checkpoints. Results wait for their jobs, those of the own job
    until all have ended, so a job that is killed loses none. If there is no GPU memory for all trainings of a
    stream, some train in a later turn. Raises the error of the own training, once all others have ended.
    """
    keep_freed_memory()
    with ExitStack() as locks:
        checkpoint = locks.enter_context(Checkpoint(own.state, own.identity))
        if handover.take(own):  # a job that outlived its Snakemake has made it meanwhile
            return
        handover.clear(own)
        joined = list(_joining(others, locks))
        first = Member(own, checkpoint, waits=bool(joined))
        members = [first, *joined]
        activations = PairedActivations.of(own.inputs)
        if joined:
            log.info("trained together: %s", ", ".join(member.order.name for member in members))
            if sum(shard.rows for shard in activations.shards) <= own.settings.buffer_tokens:
                activations.remember()  # it takes no more than another pool
        for stream in dict.fromkeys(member.stream for member in members):
            left = [member for member in members if member.stream == stream]
            while left:
                fit = _fitting(left, activations.d_model, usable_memory(device))
                turn, left = left[:fit], left[fit:]
                if left:
                    later = ", ".join(member.order.name for member in left)
                    log.info("the GPU has no room for all; in a later turn: %s", later)
                _train(turn, activations, device)
        if not handover.take(own) and first.error is not None:
            raise first.error


def _joining(others: Iterable[Order], locks: ExitStack) -> Iterator[Member]:
    """Yield those of ``others`` that no other job trains or has trained. ``locks`` gets their locks."""
    for order in others:
        checkpoint = Checkpoint(order.state, order.identity)
        # Nobody waits here: two jobs that wait for each other would wait for ever.
        if checkpoint.lock.is_held():
            log.info("%s: another job trains it now", order.name)
            continue
        locks.enter_context(checkpoint)
        if not handover.is_left(order):
            handover.clear(order)  # what waits is of other settings, code or data
            yield Member(order, checkpoint, waits=True, prefix=f"{order.name}: ")


def _fitting(members: Sequence[Member], d_model: int, usable: float) -> int:
    """Return how many of the first members fit into ``usable`` bytes. The first one always counts."""
    all_settings = [member.order.settings for member in members]
    each = (training_bytes(d_model, one.n_latents(d_model), one.batch) for one in all_settings)
    return max(1, sum(total <= usable for total in itertools.accumulate(each)))


def _train(members: Sequence[Member], activations: PairedActivations, device: torch.device) -> None:
    """Train the members of one stream. They may have checkpoints at different steps."""
    for member in members:
        with member.apart():
            member.start(activations, device)
    trainings = [member.training for member in members if member.training]
    if not trainings:
        return
    number = min(training.done for training in trainings)  # of the next batch
    reserved = sum(training.bytes() for training in trainings)
    with closing(trainings[0].batches(activations, number, reserved)) as batches:
        del trainings  # a training that ends gives its memory back
        while True:
            for member in members:
                with member.apart():
                    member.end_if_trained()
            if not any(member.training for member in members):
                return
            batch = next(batches)
            for member in members:
                if (training := member.training) and training.done == number:
                    with member.apart():
                        training.step(batch)
            number += 1
            _write_checkpoints(members)


def _write_checkpoints(members: Sequence[Member]) -> None:
    """Write the checkpoints that are due. After SIGTERM that is all of them, before the process exits."""
    exited: SystemExit | None = None
    for member in members:
        if member.training and member.checkpoint.is_due():
            try:
                with member.apart():
                    member.checkpoint.write(*member.training.state())
            except SystemExit as end:
                exited = end
    if exited is not None:
        raise exited
