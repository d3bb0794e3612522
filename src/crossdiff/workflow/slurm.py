"""SLURM, asked directly: whether it can serve a run, before anything is submitted; and which jobs a run that was killed has left behind.

Torch-free: the Snakefile imports this module.
"""

import math
import os
import shlex
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from crossdiff.errors import UserError
from crossdiff.workflow.shipped import shipped

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

PROFILE = Path("slurm/config.yaml")
SECONDS = 60  # to wait for an answer of SLURM


def check(workflow: "Workflow") -> None:
    """Called when the DAG is known and no job has started. Does nothing where jobs do not go to SLURM.

    Raises UserError that names the setting of the profile with which the run would fail or wait for ever.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    if shutil.which("sbatch") is None:
        raise UserError(
            "executor: found slurm, but there is no sbatch on the PATH; run on a login node, or without --profile slurm"
        )
    settings = workflow.executor_settings
    if (
        settings.status_command == "sacct"
        and (answer := _ask("sacct", "--noheader", "--allocations")).returncode
    ):
        raise UserError(
            f"slurm-status-command: found sacct, which answers '{answer.stderr.strip()}'; allowed here: squeue"
        )
    requests: dict[str, Any] = {}
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            requests.setdefault(_request(job, settings), job)
    for request, job in requests.items():
        answer = _ask(*shlex.split(request))
        if answer.returncode:
            raise UserError(_refusal(job, answer.stderr))
        # SLURM would take a job that is over the limit of its partition, and let it wait for ever.
        partition, minutes = job.resources.get("slurm_partition"), job.resources.get("runtime")
        if partition and minutes and minutes > (limit := _minutes(partition)):
            raise UserError(
                f"{PROFILE}: rule {job.rule.name}: runtime: found {minutes} minutes, allowed in {partition}: up to {limit:.0f}"
            )


def _request(job: Any, settings: Any) -> str:
    """The command that asks, without submitting, whether SLURM would take a job."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    options = {"partition": "-p", "account": "-A"}
    given = {name: job.resources.get(f"slurm_{name}") for name in options}
    line = get_submit_command(
        job,
        {
            name: f"{flag} {shlex.quote(str(given[name]))}" if given[name] else ""
            for name, flag in options.items()
        }
        | {
            "run_uuid": "test",
            "slurm_logfile": os.devnull,
            "comment_str": f"rule_{job.rule.name}",
            "workdir": None,
        },
        settings,
    )
    return f"{line}{set_gres_string(job)} --test-only --wrap true"


@cache
def _minutes(partition: str) -> float:
    """The time limit of a partition, given by SLURM as [days-][hours:]minutes:seconds."""
    limits = _ask("sinfo", "--noheader", f"--partition={partition}", "--format=%l").stdout.split()
    if not limits or not limits[0][0].isdigit():
        return math.inf
    days, _, clock = limits[0].rpartition("-")
    parts = [0, 0, *map(int, clock.split(":"))][-3:]
    return 1440 * int(days or 0) + 60 * parts[0] + parts[1] + parts[2] / 60


def _refusal(job: Any, said: str) -> str:
    reason = " ".join(said.replace("sbatch: error:", "").replace("allocation failure:", "").split())
    where = f"{PROFILE}: rule {job.rule.name}"
    if "partition" in reason:
        there = " ".join(_ask("sinfo", "--noheader", "--format=%R").stdout.split())
        return f"{where}: slurm_partition: found {job.resources.get('slurm_partition')!r}, allowed: {there} ({reason})"
    if "account" in reason:
        return f"{where}: slurm_account: found {job.resources.get('slurm_account')!r} ({reason})"
    asked = {
        name: job.resources.get(name) for name in ("slurm_partition", "gres", "gpu", "mem_mb", "runtime")
    } | {"threads": job.threads}
    found = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    return f"{where}: found {found}: no node can serve that ({reason}); change default-resources or set-resources"


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} on the PATH; run on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer in {SECONDS} s; is slurmctld up? (scontrol ping)") from None


class SlurmJob(NamedTuple):
    """A SLURM job of this workflow."""

    id: str
    state: str
    comment: str  # its rule


def clean(folder: Path) -> list[SlurmJob]:
    """Cancel all SLURM jobs that a run in ``folder`` has left behind, and wait until they are gone. Gives them.

    Raises UserError while Snakemake still runs there, and where SLURM does not answer.
    """
    if (running := _running_snakemake(folder)) is not None:
        raise UserError(f"process {running}: Snakemake still runs in {folder}; Ctrl-C ends it and its jobs")
    found = _jobs(folder)
    if found and (answer := _ask("scancel", *(job.id for job in found))).returncode:
        raise UserError(f"scancel: {answer.stderr.strip()}")
    deadline = time.monotonic() + SECONDS
    while left := _jobs(folder):
        if time.monotonic() > deadline:
            raise UserError(
                f"SLURM job {left[0].id}: still {left[0].state} {SECONDS} s after it was cancelled"
            )
        time.sleep(0.5)
    return found


def _jobs(folder: Path) -> list[SlurmJob]:
    """Jobs that are not over, by the prefix of their names and the folder that they work in."""
    prefix = yaml.safe_load(shipped(PROFILE, folder).read_text())["slurm-jobname-prefix"]
    states = "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING"
    answer = _ask("squeue", "--me", "--noheader", f"--states={states}", "--format=%A|%T|%k|%j|%Z")
    if answer.returncode:
        raise UserError(f"squeue: {answer.stderr.strip()}")
    lines = [line.split("|", 4) for line in answer.stdout.splitlines()]
    return [
        SlurmJob(*line[:3]) for line in lines if line[3].startswith(f"{prefix}_") and line[4] == str(folder)
    ]


def _running_snakemake(folder: Path) -> int | None:
    """A Snakemake on this machine that works in ``folder`` and is not itself inside a SLURM job."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            inside = b"SLURM_JOB_ID=" in (process / "environ").read_bytes()
            if (
                any(b"snakemake" in word for word in words[:3])
                and not inside
                and (process / "cwd").readlink() == folder
            ):
                return int(process.name)
        except OSError:
            continue  # it ended, or is not ours
    return None
