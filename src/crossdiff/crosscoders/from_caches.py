"""Train crosscoders on activations that are read from caches."""

from collections.abc import Sequence
from contextlib import closing

import torch

from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.members import Member, write_checkpoints


class CacheFeed:
    """The caches that some orders read. They are kept in memory for several orders if there is room."""

    def __init__(self, orders: Sequence[Order], device: torch.device) -> None:
        own, *others = orders
        self.activations, self.device = PairedActivations.of(own.inputs), device
        self.d_model, self.taken = self.activations.d_model, 0.0
        if others and sum(shard.rows for shard in self.activations.shards) <= own.settings.buffer_tokens:
            self.activations.remember()  # it takes no more than another pool

    def stream(self, order: Order) -> tuple[int, ...]:
        """Return what decides which tokens each batch holds."""
        return order.seed, order.settings.batch, order.settings.buffer_tokens

    def train(self, members: Sequence[Member]) -> None:
        """Train members of one stream. They may have checkpoints at different steps.

        Each step is made one after another, on the same batch.
        """
        for member in members:
            with member.apart():
                member.start(self.activations, self.device)
        trainings = [member.training for member in members if member.training]
        if not trainings:
            return
        number = min(training.done for training in trainings)  # of the next batch
        reserved = sum(training.bytes() for training in trainings)
        with closing(trainings[0].batches(self.activations, number, reserved)) as batches:
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
                write_checkpoints(members)
