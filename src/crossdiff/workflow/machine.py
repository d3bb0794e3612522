"""The GPUs that a forecast is for: how many of them a job needs, what has no room there, and the hours then.

Torch-free.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.workflow.cards import Card
from crossdiff.workflow.gpus_needed import LIVE, SPLITTING, USABLE, at_once, gpus_needed, turns
from crossdiff.workflow.sizes import Need

LINK = 25e9  # bytes/s between main memory and a GPU, or between GPUs: PCIe 4 with 16 lanes; an assumption


THROUGH = f"The hours assume {LINK / 1e9:g} GB/s for that (PCIe)."


class Machine(NamedTuple):
    """GPUs of one kind, and what a config says about their use."""

    card: Card
    gpus: int | None = None  # GPUs that there are; None: one job at a time has as many as it needs
    limit: float | None = None  # bytes of each GPU that a job may take (``gpus.memory``)
    offload: bool = False  # keep in main memory what the GPUs have no room for (``gpus.offload``)

    @classmethod
    def of(cls, card: Card, config: Config, gpus: int | None = None) -> "Machine":
        """Return a machine with ``gpus`` GPUs of this kind, as the config uses it."""
        limit = config.gpus.memory and config.gpus.memory * 1e9
        # Models of few bits are never kept in main memory (models.placement).
        few = any(source.bits for source in config.models.values())
        return cls(card, gpus, limit, config.gpus.offload and not few)

    @property
    def memory(self) -> float | None:
        """Bytes of each GPU that a job may take. None for a CPU, or if they are not known."""
        known = [size for size in (self.card.memory, self.limit) if size]
        return min(known) if known and not self.is_cpu else None

    @property
    def is_cpu(self) -> bool:
        """Whether there is no GPU, so that jobs use main memory."""
        return bool(self.card.record["architecture"] == "cpu")

    def gpus_of(self, rule: str, need: Need) -> int:
        """Return the GPUs of each job. 0 for a rule that uses none."""
        if self.is_cpu or not need.device:
            return 0
        held = at_once(need, self.memory)
        needed = max(need.gpus, gpus_needed(held, self.memory, rule in SPLITTING))
        return max(need.gpus, min(needed, self.gpus or 1)) if self._offloads(rule, need) else needed

    def each(self, rule: str, need: Need) -> float:
        """Return the bytes that a job takes of each of its GPUs. On a CPU, all that a GPU would hold."""
        if rule not in SPLITTING:
            return need.device
        held = at_once(need, self.memory) - self.offloaded(rule, need)
        return held / max(1, self.gpus_of(rule, need))

    def offloaded(self, rule: str, need: Need) -> float:
        """Return the bytes of a job's models that main memory holds, because the GPUs have no room."""
        if self.memory is None or not self._offloads(rule, need):
            return 0.0
        over = at_once(need, self.memory) - USABLE * self.memory * self.gpus_of(rule, need)
        return min(need.models, max(0.0, over))

    def host(self, rule: str, need: Need) -> float:
        """Return the bytes of main memory that a job takes."""
        return need.host + self.offloaded(rule, need)

    def lacks(self, rule: str, need: Need) -> str | None:
        """Say what a job needs that the GPUs don't have. None if it has room.

        Only weights of language models are spread over GPUs or kept in main memory. All else lies on one GPU.
        """
        if self.memory is None or not need.device:
            return None
        splits = rule in SPLITTING
        alone = at_once(need, self.memory) - (need.models if splits else 0)
        if alone > (USABLE if splits else 1) * self.memory:
            has = (
                f"{self.card.record['card']} has" if self.memory == self.card.memory else "gpus.memory gives"
            )
            what = f"{rule} needs {alone / 1e9:,.1f} GB on one GPU{' next to models' if need.models else ''}"
            return f"GPU memory: {what}, {has} {self.memory / 1e9:,.1f} GB"
        if self.gpus is not None and (needed := self.gpus_of(rule, need)) > self.gpus:
            why = f" for {at_once(need, self.memory) / 1e9:,.1f} GB" if splits else ""
            return f"GPUs: {rule} needs {needed}{why}, there are {self.gpus}"
        return None

    def hours(self, rule: str, need: Need) -> float:
        """Return the hours of a rule. Its jobs run side by side as far as there are GPUs.

        Data that all jobs read or write pass the same cores and disk, so these take no less time.
        """
        share = 1.0
        if (own := self.gpus_of(rule, need)) and need.side_by_side and need.jobs:
            share = math.ceil(need.jobs / max(1, (self.gpus or 1) // own)) / need.jobs
        number = len(turns(need, self.memory))  # the models run in each turn
        slowest = need.times(share)._replace(written=need.written, read=need.read, pairs=need.pairs)
        work = tuple(
            part._replace(flop=(number if part.kind == "forward" else 1) * part.flop)
            for part in slowest.works
        )
        linked = share * (need.linked + number * need.passes * self.offloaded(rule, need))
        return self.card.hours(slowest._replace(work=work)) + linked / LINK / 3600

    def all_hours(self, needs: dict[str, Need]) -> float:
        """Return the hours of all rules, one after another."""
        return sum(self.hours(rule, need) for rule, need in needs.items())

    def told(self, needs: dict[str, Need]) -> Iterator[str]:
        """Yield what the hours and the numbers of GPUs assume."""
        if (self.gpus or 1) > 1:
            yield f"On {self.gpus} GPUs, jobs of one rule run side by side. Rules follow one another."
        else:
            yield "Hours count one job after another."
        if any(self.gpus_of(rule, need) > 1 and need.models for rule, need in needs.items()):
            yield "A model on several GPUs is as fast as on one, because its blocks run in turn."
        if LIVE in needs and (number := len(turns(needs[LIVE], self.memory))) > 1:
            yield f"{LIVE}: a GPU has no room for all crosscoders. They train in {number} turns."
        if apart := [rule for rule, need in needs.items() if self.offloaded(rule, need)]:
            yield f"Main memory holds a part of the models in {', '.join(apart)}. {THROUGH}"
        if any(need.linked for need in needs.values()):
            yield f"GPUs exchange gradients in every training step. {THROUGH}"

    def _offloads(self, rule: str, need: Need) -> bool:
        return self.offload and rule in SPLITTING and need.models > 0
