"""Which jobs run now: a small file for each, which its process renews until it ends.

It tells on any machine that shares the folder, so also of jobs on a SLURM cluster. A job that was killed
stops to renew its file, and then counts as lost."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.provenance.json_cache import FOLDER

RUNNING = FOLDER / "running"
RENEWED = 10.0  # seconds between two renewals
LOST = 120.0  # seconds without a renewal: file systems of clusters show new times late


class RunningJob(NamedTuple):
    """A job that runs now, as its process describes it."""

    rule: str
    wildcards: dict[str, str]
    log: str  # path of its log file
    started: float  # Unix time, seconds
    host: str
    pid: int
    slurm_job: str | None


@contextmanager
def running(snakemake: Any) -> Iterator[None]:
    """Inside, the job counts as running. ``snakemake`` is the object that Snakemake gives to a script."""
    job = RunningJob(
        rule=snakemake.rule,
        wildcards=dict(snakemake.wildcards.items()),
        log=snakemake.log[0],
        started=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
    )
    path = RUNNING / f"{job.host}.{job.pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(job._asdict()))
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        path.unlink(missing_ok=True)


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        path.touch()


def running_jobs(root: Path) -> list[RunningJob]:
    """The jobs that run in the folder ``root`` now, those that started first first. Files of lost jobs are
    deleted.
    """
    found = []
    for path in (root / RUNNING).glob("*.json"):
        try:
            job, silent = RunningJob(**json.loads(path.read_text())), time.time() - path.stat().st_mtime
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # it ends, or starts, just now
        if _is_lost(job, silent):
            path.unlink(missing_ok=True)
        else:
            found.append(job)
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
