"""What the rules ask of SLURM, and how many jobs take this machine's GPU at a time: the forecast with a margin. Torch-free."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crossdiff.config import Config
from crossdiff.workflow.cards import Card
from crossdiff.workflow.forecast import forecast
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import Shape

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

MARGIN = 1.5  # what is asked for, as a multiple of the forecast
UNKNOWN_MB, UNKNOWN_MINUTES = (
    64_000,
    480,
)  # asked where nobody knows the model yet: enough for one of some billion parameters
LEAST_MB, LEAST_MINUTES = 2000, 30
ON_GPU = "on_gpu"  # resource of jobs that use the GPU, if there is one
# What any GPU of a cluster reaches, and the node beside it.
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
    """For the rules: ``**request("train_crosscoder")`` among the resources gives memory and minutes, more after each failed attempt.

    And ``on_gpu``: whether a job runs on a GPU where there is one.
    """
    model = shape(config, root)
    needs = forecast(
        config, model or Shape(1, 1, 1, 1, 1)
    )  # of any model: which rules there are, and which use a device

    def of(rule: str) -> dict[str, int | Callable[..., int]]:
        if rule not in needs:  # nothing to ask for: no job, or one that waits for a server
            return {}
        need = needs[rule]
        memory = max(LEAST_MB, int(MARGIN * need.memory / 1e6)) if model else UNKNOWN_MB
        minutes = (
            max(LEAST_MINUTES, int(MARGIN * SLOWEST.seconds(need) / need.jobs / 60))
            if model
            else UNKNOWN_MINUTES
        )
        grows = {
            "mem_mb": lambda wildcards, attempt: memory * attempt,
            "runtime": lambda wildcards, attempt: minutes * attempt,
        }
        return grows | {ON_GPU: 1 if need.device else 0}

    return of


def share_gpu(workflow: "Workflow", devices: Path = Path("/dev")) -> None:
    """Run one job on this machine's GPU at a time, where it has one and ``--resources on_gpu=...`` gives no other number.

    All jobs take the first GPU, so that several GPUs change nothing. A limit of local scope: jobs of a cluster don't count.
    """
    if any(devices.glob("nvidia[0-9]*")) and ON_GPU not in workflow.global_resources:
        workflow.register_resource(ON_GPU, 1)
