"""Train crosscoders of one pair and layer in one process, from one stream of activations.

Each has its own weights, loss, optimiser, log and checkpoint, so each gets the bits that it gets alone.
Streams follow one another.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch

from crossdiff.crosscoders import handover
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.from_caches import CacheFeed
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.members import Member
from crossdiff.crosscoders.memory import fitting
from crossdiff.device import keep_freed_memory, usable_memory

log = logging.getLogger(__name__)


class Feed(Protocol):
    """What gives batches to trainings of one pair and layer."""

    d_model: int
    taken: float  # bytes of the device that are taken before any training

    def stream(self, order: Order) -> tuple[int, ...]:
        """Return what decides the batches. Trainings in which it is the same train together."""

    def train(self, members: Sequence[Member]) -> None:
        """Make all steps that members of one stream have left, and end each that has none left."""


def train_all(
    own: Order,
    others: Iterable[Order],
    device: torch.device,
    open_feed: Callable[[Sequence[Order], torch.device], Feed] = CacheFeed,
) -> None:
    """Make the ``own`` training of a job, and ``others`` that learn from the same activations.

    ``open_feed`` opens these for the orders that it gets. The own one is the first.

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
        if joined:
            log.info("trained together: %s", ", ".join(member.order.name for member in members))
        feed = open_feed([member.order for member in members], device)
        for stream in dict.fromkeys(feed.stream(member.order) for member in members):
            left = [member for member in members if feed.stream(member.order) == stream]
            while left:
                settings = [member.order.settings for member in left]
                fit = fitting(settings, feed.d_model, usable_memory(device) - feed.taken)
                turn, left = left[:fit], left[fit:]
                if left:
                    later = ", ".join(member.order.name for member in left)
                    log.info("the GPU has no room for all; in a later turn: %s", later)
                feed.train(turn)
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
