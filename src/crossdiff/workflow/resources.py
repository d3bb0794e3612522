"""Resources of the rules: what they ask of SLURM, and the limit of this machine's GPUs. Torch-free."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.workflow import together
from crossdiff.workflow.cards import Card
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.harvests import known_as
from crossdiff.workflow.machine_gpus import DEVICES, ON_GPU, usable
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import PROCESS, Shape

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

MARGIN = 1.5  # a job asks for this multiple of its forecast
# Asked while the model's size is not known: enough for a few billion parameters.
UNKNOWN_MB, UNKNOWN_MINUTES = 64_000, 480
LEAST_MB, LEAST_MINUTES = 2000, 30
TRAINING = "train_crosscoder"  # the rule that gpus.training is about
# Rates that any GPU node of a cluster reaches.
SLOWEST = Card(
    "slowest",
    {
        "architecture": "any",
        "cores": 4,
        "measured": {"product": {"value": 3e13}, "copy": {"value": 2.5e11}},
        "steps": [],
    },
)


class Requests:
    """What the rules ask for, from the config and the models' sizes: ``**requests("train_crosscoder")``.

    A call gives ``mem_mb``, ``runtime`` and ``on_gpu`` of a rule, or nothing for a rule that the forecast
    does not know. Memory (MB) and runtime (minutes) grow with each failed attempt. ``on_gpu`` is 0 for jobs
    that use no GPU. For the others it is 1, or ``gpus.training``. More follows when the card is known
    (``gpu_requests.settle``).
    """

    def __init__(self, config: Config, root: Path = Path()) -> None:
        self.config = config
        self.models = {pair.name: shape(config.of(pair), root) for pair in config.comparisons}
        self.known = all(self.models.values())
        # Without a model's size any shape will do: it still shows which rules there are and which use a
        # device.
        sizes = {name: model or Shape(1, 1, 1, 1, 1) for name, model in self.models.items()}
        self.needs = forecast(config, sizes)

    def __call__(self, rule: str) -> dict[str, int | Callable[..., int]]:
        """Return the resources of a rule."""
        rule = known_as(rule)
        if rule not in self.needs:  # it has no job, or its job only waits for a server
            return {}
        need = self.needs[rule]
        gpus = self.config.gpus.training if rule == TRAINING else 1
        jobs, memory = need.jobs, need.memory + (gpus - 1) * PROCESS
        if rule in together.RULES and self.config.trains_together and gpus == 1:
            jobs = len(self.config.comparisons)  # any job may be the one that trains all
            if rule == TRAINING:  # it may keep the data, which take up to another pool
                memory = 1.5 * need.host + len(self.config.trained) * need.device
        megabytes = max(LEAST_MB, int(MARGIN * memory / 1e6)) if self.known else UNKNOWN_MB
        each = SLOWEST.seconds(need) / jobs / 60
        minutes = max(LEAST_MINUTES, int(MARGIN * each)) if self.known else UNKNOWN_MINUTES
        grows = {
            "mem_mb": lambda wildcards, attempt: megabytes * attempt,
            "runtime": lambda wildcards, attempt: minutes * attempt,
        }
        return grows | {ON_GPU: gpus if need.device else 0}


def share_gpus(workflow: "Workflow", devices: Path = DEVICES) -> None:
    """Let jobs use as many GPUs together as this machine has for the run.

    ``--resources on_gpu=...`` gives another number. The limit has local scope: a cluster's jobs don't count.
    """
    if (gpus := usable(devices)) and ON_GPU not in workflow.global_resources:
        workflow.register_resource(ON_GPU, len(gpus))


def check_cores(workflow: "Workflow") -> None:
    """Raise UserError for ``--cores 0``: Snakemake would wait for ever, because no job may start."""
    if (cores := workflow.resource_settings.cores) is not None and cores < 1:
        raise UserError(f"--cores: found {cores}, allowed: 1 or more, or all")
