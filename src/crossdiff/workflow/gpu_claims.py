"""Which GPUs of this machine a job takes. Torch-free.

Snakemake limits how many GPUs the running jobs take together. Each job then claims its own when it starts: it
locks one file for each. The kernel gives the lock back when the job's process ends, even after ``kill -9``.
Processes that the job starts do not inherit the lock. Runs in other folders are not seen.

On a cluster, SLURM gives out the GPUs, and nothing here changes that.
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crossdiff.errors import UserError
from crossdiff.provenance.json_cache import FOLDER
from crossdiff.workflow.machine_gpus import DEVICES, ON_GPU, VISIBLE, found, usable

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

CLAIMS = FOLDER / "gpus"
# The run tells its jobs in the environment which GPUs there are, and how many jobs may share one.
NAMES, SHARE = "CROSSDIFF_GPUS", "CROSSDIFF_JOBS_PER_GPU"
WAIT = 1.0  # seconds between two looks for a free GPU

log = logging.getLogger(__name__)


def announce(workflow: "Workflow", devices: Path = DEVICES) -> None:
    """Tell the jobs of this run which GPUs they may claim. Snakemake calls this before the first job.

    Jobs claim none if they do not run on this machine, or if there is only one GPU. If the user lets more
    jobs run than there are GPUs (``--resources on_gpu=8`` on four), so many share each.
    """
    for name in (NAMES, SHARE):
        os.environ.pop(name, None)
    if workflow.executor_plugin.name != "local" or len(found(devices)) < 2:
        return
    names = [gpu.name for gpu in usable(devices)]
    limit = workflow.global_resources[ON_GPU].value
    os.environ |= {NAMES: ",".join(names), SHARE: str(max(1, -(-limit // len(names))))}


def claim(number: int, folder: Path = CLAIMS) -> list[str]:
    """Claim ``number`` GPUs until this process ends, let CUDA see no others, and return their names.

    The least used GPUs are taken first. If all are used by as many jobs as may share one, the job waits. It
    returns nothing, and all stays as it is, for a job that needs no GPU and in a run that has announced none.
    Call it before the process uses CUDA, and once. Raises UserError if there are too few GPUs, or if files
    can't be locked in ``folder``.
    """
    names = [name for name in os.environ.get(NAMES, "").split(",") if name]
    if not names or not number:
        return []
    if number > len(names):
        raise UserError(f"{ON_GPU}: found {number}, allowed on this machine: up to {len(names)}")
    share, told = int(os.environ[SHARE]), False
    while not (taken := _take(number, names, share, folder)):
        if not told:
            log.info("waiting for %s: other jobs use all GPUs", "a GPU" if number == 1 else f"{number} GPUs")
            told = True
        time.sleep(WAIT)
    os.environ[VISIBLE] = ",".join(taken)
    log.info("%s=%s", VISIBLE, os.environ[VISIBLE])
    return taken


def _take(number: int, names: list[str], share: int, folder: Path) -> list[str]:
    """Lock ``number`` GPUs and return their names, or return nothing if too few are free for one more job."""
    places = {name: folder / name.replace("/", "_") for name in names}
    with _alone(folder):
        users = {name: _users(place) for name, place in places.items()}
        # Of equally used ones, the first stays first.
        open_ones = sorted((name for name in names if users[name] < share), key=users.__getitem__)
        if len(open_ones) < number:
            return []
        taken = sorted(open_ones[:number], key=names.index)
        for name in taken:
            places[name].mkdir(exist_ok=True)
            descriptor, _ = tempfile.mkstemp(dir=places[name], suffix=".lock")
            _lock(descriptor, wait=True)  # the descriptor stays open, and so the lock stays
    return taken


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other job looks for a GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "choosing.lock", os.O_RDWR | os.O_CREAT)
    try:
        _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _users(place: Path) -> int:
    """How many live jobs hold a lock in this folder. Files of jobs that have ended are deleted."""
    files = list(place.glob("*.lock"))
    return sum(_is_held(file) for file in files)


def _is_held(file: Path) -> bool:
    descriptor = os.open(file, os.O_RDWR)
    try:
        if held := not _lock(descriptor, wait=False):
            return held
        file.unlink()
        return held
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file for this process, and say whether it worked."""
    try:
        # POSIX locks belong to one process. A lock by flock would go on in its forks.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise UserError(
            f"{CLAIMS}: files can't be locked there ({error.strerror}), so jobs can't share out the GPUs; "
            f"put the checkout on another file system, or name one GPU in {VISIBLE}"
        ) from None
    return True
