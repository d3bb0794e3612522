"""This module asks SLURM whether it can serve a run, and cancels the jobs of a killed run.

It is torch-free, because the Snakefile imports it.
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
SECONDS = 60  # longest wait for an answer of SLURM


def check(workflow: "Workflow") -> None:
    """Raise UserError that names the setting of the profile with which the run would fail or wait for ever.

    Snakemake calls this when the DAG is known and no job has started. It does nothing if jobs do not go to
    SLURM.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    if shutil.which("sbatch") is None:
        raise UserError(
            "executor: found slurm, but there is no sbatch on the PATH; "
            "run on a login node, or without --profile slurm"
        )
    settings = workflow.executor_settings
    if settings.status_command == "sacct":
        answer = _ask("sacct", "--noheader", "--allocations")
        if answer.returncode:
            found = f"found sacct, which answers '{answer.stderr.strip()}'"
            raise UserError(f"slurm-status-command: {found}; allowed here: squeue")
    requests: dict[str, Any] = {}
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            requests.setdefault(_request(job, settings), job)
    for request, job in requests.items():
        answer = _ask(*shlex.split(request))
        if answer.returncode:
            raise UserError(_refusal(job, answer.stderr))
        # SLURM would accept a job that is over the limit of its partition, and let it wait for ever.
        partition, minutes = job.resources.get("slurm_partition"), job.resources.get("runtime")
        if partition and minutes and minutes > (limit := _minutes(partition)):
            found = f"rule {job.rule.name}: runtime: found {minutes} minutes"
            raise UserError(f"{PROFILE}: {found}, allowed in {partition}: up to {limit:.0f}")


def _request(job: Any, settings: Any) -> str:
    """Return the command that asks SLURM whether it would take a job. Nothing is submitted."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    options = {"partition": "-p", "account": "-A"}
    given = {name: job.resources.get(f"slurm_{name}") for name in options}
    flags = {
        name: f"{flag} {shlex.quote(str(given[name]))}" if given[name] else ""
        for name, flag in options.items()
    }
    fixed = {"run_uuid": "test", "slurm_logfile": os.devnull, "workdir": None}
    line = get_submit_command(job, flags | fixed | {"comment_str": f"rule_{job.rule.name}"}, settings)
    return f"{line}{set_gres_string(job)} --test-only --wrap true"


@cache
def _minutes(partition: str) -> float:
    """Return the time limit of a partition in minutes. SLURM gives it as [days-][hours:]minutes:seconds."""
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
        found = job.resources.get("slurm_partition")
        return f"{where}: slurm_partition: found {found!r}, allowed: {there} ({reason})"
    if "account" in reason:
        return f"{where}: slurm_account: found {job.resources.get('slurm_account')!r} ({reason})"
    names = ("slurm_partition", "gres", "gpu", "mem_mb", "runtime")
    asked = {name: job.resources.get(name) for name in names} | {"threads": job.threads}
    found = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    todo = "change default-resources or set-resources"
    return f"{where}: found {found}: no node can serve that ({reason}); {todo}"


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} on the PATH; run on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{command[0]}: no answer in {SECONDS} s; check with scontrol ping that slurmctld is up"
        ) from None


class SlurmJob(NamedTuple):
    """A SLURM job of this workflow."""

    id: str
    state: str
    comment: str  # names its rule


def clean(folder: Path) -> list[SlurmJob]:
    """Cancel all SLURM jobs that a run in ``folder`` left behind, wait until they are gone, and return them.

    Raises UserError while Snakemake still runs there, and if SLURM does not answer.
    """
    if (running := _running_snakemake(folder)) is not None:
        raise UserError(
            f"process {running}: Snakemake still runs in {folder}; press Ctrl-C there to end it and its jobs"
        )
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
    """Return the jobs that are not over, found by the prefix of their names and by their working folder."""
    prefix = yaml.safe_load(shipped(PROFILE, folder).read_text())["slurm-jobname-prefix"]
    states = "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING"
    answer = _ask("squeue", "--me", "--noheader", f"--states={states}", "--format=%A|%T|%k|%j|%Z")
    if answer.returncode:
        raise UserError(f"squeue: {answer.stderr.strip()}")
    lines = [line.split("|", 4) for line in answer.stdout.splitlines()]
    ours = [line for line in lines if line[3].startswith(f"{prefix}_") and line[4] == str(folder)]
    return [SlurmJob(*line[:3]) for line in ours]


def _running_snakemake(folder: Path) -> int | None:
    """Return the process id of a Snakemake that works in ``folder`` here and outside any SLURM job."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            outside = b"SLURM_JOB_ID=" not in (process / "environ").read_bytes()
            runs = outside and any(b"snakemake" in word for word in words[:3])
            if runs and (process / "cwd").readlink() == folder:
                return int(process.name)
        except OSError:
            continue  # the process has ended or belongs to another user
    return None
