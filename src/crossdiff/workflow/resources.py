"""Resources of the rules: what they ask of SLURM, and how many jobs share this machine's GPU. Torch-free."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.workflow import together
from crossdiff.workflow.cards import Card
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import Shape

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

MARGIN = 1.5  # a job asks for this multiple of its forecast
# Asked while the model's size is not known: enough for a few billion parameters.
UNKNOWN_MB, UNKNOWN_MINUTES = 64_000, 480
LEAST_MB, LEAST_MINUTES = 2000, 30
ON_GPU = "on_gpu"  # resource of jobs that use the GPU, if there is one
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


def request(config: Config, root: Path = Path()) -> Callable[[str], dict[str, int | Callable[..., int]]]:
    """Return a function for the resources of a rule: ``**request("train_crosscoder")``.

    It gives ``mem_mb``, ``runtime`` and ``on_gpu``, or nothing for a rule that the forecast does not know.
    Memory (MB) and runtime (minutes) grow with each failed attempt. ``on_gpu`` is 1 for jobs that use a GPU
    if there is one.
    """
    models = {pair.name: shape(config.of(pair), root) for pair in config.comparisons}
    known = all(models.values())
    # Without a model's size any shape will do: it still shows which rules there are and which use a device.
    needs = forecast(config, {name: model or Shape(1, 1, 1, 1, 1) for name, model in models.items()})

    def of(rule: str) -> dict[str, int | Callable[..., int]]:
        if rule not in needs:  # it has no job, or its job only waits for a server
            return {}
        need = needs[rule]
        jobs, memory = need.jobs, need.memory
        if rule in together.RULES and config.trains_together:
            # Any job may be the one that trains all. It may keep the data, which take up to another pool.
            jobs, memory = len(config.comparisons), 1.5 * need.host + len(config.crosscoders) * need.device
        megabytes = max(LEAST_MB, int(MARGIN * memory / 1e6)) if known else UNKNOWN_MB
        each = SLOWEST.seconds(need) / jobs / 60
        minutes = max(LEAST_MINUTES, int(MARGIN * each)) if known else UNKNOWN_MINUTES
        grows = {
            "mem_mb": lambda wildcards, attempt: megabytes * attempt,
            "runtime": lambda wildcards, attempt: minutes * attempt,
        }
        return grows | {ON_GPU: 1 if need.device else 0}

    return of


def share_gpu(workflow: "Workflow", devices: Path = Path("/dev")) -> None:
    """Let one job at a time use this machine's GPU, unless ``--resources on_gpu=...`` gives another number.

    All jobs take the first GPU, so several GPUs change nothing. The limit has local scope: a cluster's jobs
    don't count.
    """
    if any(devices.glob("nvidia[0-9]*")) and ON_GPU not in workflow.global_resources:
        workflow.register_resource(ON_GPU, 1)


def check_cores(workflow: "Workflow") -> None:
    """Raise UserError for ``--cores 0``: Snakemake would wait for ever, because no job may start."""
    if (cores := workflow.resource_settings.cores) is not None and cores < 1:
        raise UserError(f"--cores: found {cores}, allowed: 1 or more, or all")
