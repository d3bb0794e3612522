"""Train crosscoders while both models run, without caches.

All trainings use the same pools, whatever their seeds and batches. Each makes its steps on a pool before the
next one does. So each gets the bits that it gets alone.
"""

from collections.abc import Mapping, Sequence

import torch

from crossdiff.activations.live import LiveActivations, Pool
from crossdiff.activations.pairs import read_summary
from crossdiff.config import MODELS
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.members import Member, write_checkpoints
from crossdiff.device import fast_dtype
from crossdiff.errors import UserError
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements


class ModelFeed:
    """Both models of the ``own`` order, and the training tokens that they run over.

    ``replacements``: token id -> id that the base reads in its place. Batches have ``batch_tokens`` tokens.
    """

    def __init__(
        self, own: Order, device: torch.device, replacements: Mapping[int, int], batch_tokens: int
    ) -> None:
        base, chat = (load_model(own.inputs[role], fast_dtype()) for role in MODELS)
        models, summary = [with_replacements(base, replacements), chat], read_summary(own.inputs["summary"])
        self.activations = LiveActivations(models, own.inputs["tokens"], summary, batch_tokens, device)
        self.device, self.d_model, self.taken = device, self.activations.d_model, self.activations.taken

    def stream(self, order: Order) -> tuple[int, ...]:
        """Return what decides which tokens each pool holds."""
        return (order.settings.buffer_tokens,)

    def train(self, members: Sequence[Member]) -> None:
        """Train members of one stream. They may have checkpoints at different places."""
        size = self.activations.size(members[0].order.settings.buffer_tokens)
        for member in members:
            with member.apart():
                _check_batch(member, size)
                member.start(self.activations, self.device)
        _end(members)
        trainings = [member.training for member in members if member.training]
        if not trainings:
            return
        first = min(member.place[0] for member in members if member.training)
        reserved = sum(training.bytes() for training in trainings)
        del trainings  # a training that ends gives its memory back
        pools = self.activations.pools(
            members[0].order.settings.buffer_tokens, first, reserved, lambda: write_checkpoints(members)
        )
        for number, pool in enumerate(pools, first):
            for member in members:
                if member.training and member.place[0] == number:
                    _use(pool, member, members)
            _end(members)
            if not any(member.training for member in members):
                return


def _use(pool: Pool, member: Member, members: Sequence[Member]) -> None:
    """Make a member's steps on the pool, from the batch of its place on."""
    (number, used), batch = member.place, member.order.settings.batch
    with member.apart():
        if len(pool.rows) < batch and not pool.is_rest:
            raise UserError(
                f"crosscoders: batch: found {batch:,}, but only {len(pool.rows):,} tokens of a pool count; "
                "lower it, raise activations.max_norm_ratio, or use activations.store: all"
            )
    for rows in pool.batches(batch, used):
        training = member.training
        if training is None or training.done == member.order.settings.steps:
            return
        with member.apart():
            training.step(rows)
        used += 1
        member.place = number, used
        write_checkpoints(members)
    member.place = number + 1, 0


def _end(members: Sequence[Member]) -> None:
    for member in members:
        with member.apart():
            member.end_if_trained()


def _check_batch(member: Member, size: int) -> None:
    """Raise UserError if a pool of ``size`` tokens does not fill a batch."""
    if (batch := member.order.settings.batch) > size:
        raise UserError(
            f"crosscoders: batch: found {batch:,}, allowed with activations.store: none: up to the {size:,} "
            "tokens of a pool (a fifth of the training tokens); lower it, or use store: all"
        )
