"""Which jobs run now. Each job has a small file, which its process renews until it ends.

Every machine that shares the folder can read it, so jobs on a SLURM cluster are seen too. A killed job no
longer renews its file, and then counts as lost.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.provenance.json_cache import FOLDER

log = logging.getLogger(__name__)

RUNNING = FOLDER / "running"
RENEWED = 10.0  # seconds between two renewals
LOST = 120.0  # seconds without a renewal: file systems of clusters show new times late
FORGOTTEN = 24 * 3600.0  # seconds after which the file of a lost job on another machine is deleted


class RunningJob(NamedTuple):
    """A job that runs now, as its process describes it."""

    rule: str
    wildcards: dict[str, str]
    log: str  # path of its log file
    started: float  # Unix time, seconds
    host: str
    pid: int
    slurm_job: str | None
    gpus: Sequence[str] = ()  # those that it has claimed of a machine with several


@contextmanager
def running(snakemake: Any, gpus: Sequence[str] = ()) -> Iterator[None]:
    """Inside, the job counts as running, on these GPUs.

    ``snakemake`` is the object that Snakemake gives to a script.
    """
    job = RunningJob(
        rule=snakemake.rule,
        wildcards=dict(snakemake.wildcards.items()),
        log=snakemake.log[0],
        started=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        gpus=list(gpus),
    )
    path = RUNNING / f"{job.host}.{job.pid}.json"
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path.absolute(), job, ended), daemon=True)
    _write(path, job)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write(path: Path, job: RunningJob) -> None:
    """Write a job's file. A job goes on without: nothing but ``crossdiff watch`` needs it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job._asdict()))
    except OSError as error:
        log.warning("crossdiff watch can't show this job: %s", error)


def _renew(path: Path, job: RunningJob, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        try:
            os.utime(path)
        except OSError:
            _write(path, job)  # somebody deleted it


def running_jobs(root: Path) -> list[RunningJob]:
    """The jobs that run in the folder ``root`` now, in order of their start. Deletes files of lost jobs."""
    found = []
    for path in (root / RUNNING).glob("*.json"):
        try:
            job, silent = RunningJob(**json.loads(path.read_text())), time.time() - path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            continue  # it ends or starts just now, or is of another version
        if not _is_lost(job, silent):
            found.append(job)
        elif job.host == socket.gethostname() or silent > FORGOTTEN:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda job: (job.started, job.pid))


def _is_lost(job: RunningJob, silent: float) -> bool:
    if job.host != socket.gethostname():
        return silent > LOST
    try:
        os.kill(job.pid, 0)  # sends nothing: it only asks whether the process is there
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return silent > LOST
