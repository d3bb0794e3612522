"""Train crosscoders while both models run, without caches.

All trainings use the same pools, whatever their seeds and batches. Each makes its steps on a pool before the
next one does. So each gets the bits that it gets alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from crossdiff.activations.live import LiveActivations, Pool
from crossdiff.activations.pairs import read_summary
from crossdiff.activations.pools import FILLED
from crossdiff.config import MODELS
from crossdiff.crosscoders.handover import Order
from crossdiff.crosscoders.members import Member, write_checkpoints
from crossdiff.crosscoders.memory import fitting, of_each
from crossdiff.device import fast_dtype, usable_memory
from crossdiff.errors import UserError
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements


class ModelFeed:
    """Both models of some orders, and the training tokens that they run over.

    ``replacements``: token id -> id that the base reads in its place. Batches have ``batch_tokens`` tokens.
    Mean and scale are of at least ``statistics_tokens`` tokens, or of all.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        device: torch.device,
        replacements: Mapping[int, int],
        batch_tokens: int,
        statistics_tokens: int,
    ) -> None:
        own = orders[0]
        summary = read_summary(own.inputs["summary"])
        with _room_kept(orders, len(summary.mean[0]), device):
            places = zip(MODELS, _devices(device), strict=True)
            base, chat = (load_model(own.inputs[role], fast_dtype(), there) for role, there in places)
        models = [with_replacements(base, replacements), chat]
        self.activations = LiveActivations(models, own.inputs["tokens"], summary, batch_tokens, device)
        self.activations.measure(statistics_tokens)
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


def _devices(first: torch.device) -> list[list[torch.device]]:
    """For each model the devices that it may use, the best first. Trainings use the ``first`` one.

    With several GPUs each model begins with another one, and the base with the last.
    """
    if first.type == "cpu":
        return [[first]] * len(MODELS)
    gpus = [torch.device("cuda", number) for number in reversed(range(torch.cuda.device_count()))]
    return [gpus[number % len(gpus) :] + gpus[: number % len(gpus)] for number in range(len(MODELS))]


@contextmanager
def _room_kept(orders: Sequence[Order], d_model: int, device: torch.device) -> Iterator[None]:
    """Inside, the memory that trainings will take of the first of several GPUs is taken.

    So models that are loaded inside leave room for as many trainings as an empty GPU holds.
    """
    if device.type == "cpu" or torch.cuda.device_count() == 1:
        yield
        return
    trainings, usable = [order.settings for order in orders], FILLED * usable_memory(device)
    size = sum(of_each(trainings, d_model)[: fitting(trainings, d_model, usable)])
    kept = torch.empty(int(min(size, usable)), dtype=torch.uint8, device=device)
    yield
    del kept
    torch.cuda.empty_cache()


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
