"""How many GPUs the jobs of each rule ask for, once the card is known. Torch-free.

A job takes as many GPUs as hold what it needs there. The card is the one that the profile describes
(``gpu_memory_gb``), or else this machine's. A request of the profile or the command line (``gres``, ``gpu``)
gets this number of GPUs. If it names more, it keeps its own number.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdiff.workflow import harvests
from crossdiff.workflow.gpus_needed import SPLITTING, at_once, gpus_needed
from crossdiff.workflow.machine_gpus import DEVICES, ON_GPU, card_bytes, usable
from crossdiff.workflow.resources import TRAINING, Requests

if TYPE_CHECKING:
    from snakemake.resources import Resource
    from snakemake.workflow import Workflow

MEMORY = "gpu_memory_gb"  # resource by which a profile tells the memory of a cluster's GPUs
GB = 1e9


def settle(workflow: "Workflow", requests: Requests) -> None:
    """Let every rule that uses GPUs ask for as many as it needs. Call it when all rules are there."""
    overwritten = workflow.resource_settings._parsed_overwrite_resources
    for rule in workflow.rules:
        name = harvests.known_as(rule.name)
        if not (name in requests.needs and requests.needs[name].device):
            continue
        if any(ON_GPU in overwritten.get(one, {}) for one in (name, rule.name)):
            continue  # the user says how many
        asked = _Asked(workflow, requests, name, dict(rule.resources))
        rule.resources[ON_GPU] = asked.gpus
        for resource, value in (("gres", asked.gres), ("gpu", asked.gpus)):
            if resource in rule.resources:
                rule.resources[resource] = value


class _Asked:
    """What a rule asks for. The methods are resources of Snakemake, which passes wildcards and context."""

    def __init__(
        self, workflow: "Workflow", requests: Requests, rule: str, given: Mapping[str, "Resource"]
    ) -> None:
        self.workflow, self.requests, self.rule, self.given = workflow, requests, rule, given

    def gpus(self, wildcards: Any, **context: Any) -> int:
        """The number of GPUs: what the job needs, or more if the user asks for more."""
        memory = self._given(MEMORY, wildcards, context)
        asked = max(
            gres_count(self._given("gres", wildcards, context)), self._given("gpu", wildcards, context) or 1
        )
        return max(asked, self._needed(memory and memory * GB))

    def gres(self, wildcards: Any, **context: Any) -> str:
        """The user's ``gres`` with this number."""
        return with_count(self._given("gres", wildcards, context), self.gpus(wildcards, **context))

    def _given(self, resource: str, wildcards: Any, context: Mapping[str, Any]) -> Any:
        """The value that the profile or the command line gives, or None."""
        return self.given[resource].evaluate(wildcards, **context).value if resource in self.given else None

    def _needed(self, named: float | None) -> int:
        """The number of GPUs that the job needs. ``named``: bytes of the card that the profile describes."""
        config, need = self.requests.config, self.requests.needs[self.rule]
        if self.rule == TRAINING:
            return config.gpus.training
        if config.device == "cpu":
            return 1
        here = self.workflow.is_main_process and self.workflow.local_exec
        there = allowed(self.workflow) if here else 0
        card = limited(named or (card_bytes() if here else None), config.gpus.memory)
        needed = gpus_needed(at_once(need, card), card, self.rule in SPLITTING)
        if there:
            return min(needed, there)
        return 1 if config.gpus.offload else needed


def allowed(workflow: "Workflow", devices: Path = DEVICES) -> int:
    """How many GPUs of this machine a job may take: those that there are, or fewer by ``--resources``."""
    gpus = len(usable(devices))
    return min(gpus, workflow.global_resources[ON_GPU].value) if gpus else 0


def limited(card: float | None, gigabytes: float | None) -> float | None:
    """The bytes of a card that a job may take. ``gigabytes`` is ``gpus.memory``."""
    return card if card is None or gigabytes is None else min(card, gigabytes * GB)


def gres_count(gres: str | None) -> int:
    """The number of GPUs that a request such as "gpu:2" or "gpu:a100:2" names. It is 1 for other requests."""
    kind, *rest = (gres or "").split(":")
    return int(rest[-1]) if kind == "gpu" and rest and rest[-1].isdecimal() else 1


def with_count(gres: str, number: int) -> str:
    """The same request for ``number`` GPUs. A request for something else stays."""
    kind, *rest = gres.split(":")
    if kind != "gpu":
        return gres
    return ":".join([kind, *(rest[:-1] if rest and rest[-1].isdecimal() else rest), str(number)])
