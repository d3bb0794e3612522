"""This module asks, before a run starts its first job, whether torch can use this machine's GPU.

It is torch-free, because the Snakefile imports it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crossdiff.errors import UserError
from crossdiff.workflow.machine_gpus import DEVICES, ON_GPU

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

QUESTION = "from crossdiff.device import unusable; print(unusable() or '')"


def check(workflow: "Workflow", devices: Path = DEVICES) -> None:
    """Raise UserError if a job would use this machine's GPU and torch can't.

    Snakemake calls this when the DAG is known and no job has started. It takes a second or two if there is a
    GPU, and no time otherwise. Jobs on other machines or with another torch check for themselves
    (``crossdiff.device``).
    """
    if workflow.executor_plugin.name != "local" or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return
    if not any(devices.glob("nvidia[0-9]*")) or not any(
        job.resources.get(ON_GPU) for job in workflow.dag.needrun_jobs()
    ):
        return
    answer = subprocess.run([sys.executable, "-c", QUESTION], capture_output=True, text=True)
    if answer.returncode == 0 and (reason := answer.stdout.strip()):
        raise UserError(reason)
