"""``crossdiff watch``: the jobs that run now, how far each is, how fast, and how long it still takes.

Everything comes from files: who runs (``running``), and the progress that jobs write into their logs, in
lines such as ``12:03:11 step 300 of 976: loss 41.2, fve_base 0.84``."""

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from crossdiff.workflow.running import running_jobs

PROGRESS = re.compile(
    r"^(\d\d):(\d\d):(\d\d) (?P<step>step )?(?P<done>\d+) of (?P<total>\d+)"
    r"(?: (?P<unit>[\w ]+))?(?:: (?P<values>.+))?$"
)
DAY = 24 * 3600
SILENT = 60.0  # seconds without a new line that are worth telling
RECENT = 10  # lines of progress that a rate is taken from
NAMED = 12  # characters of a GPU's UUID that are shown
TAIL = 64 * 1024  # bytes at a log's end that are read


class Progress(NamedTuple):
    """How far a job is."""

    done: int
    total: int
    unit: str
    rate: float | None  # units per second; None until two lines are a second apart
    values: str  # what the line says besides: losses, FVE, L0

    @property
    def left(self) -> float | None:
        """Seconds until ``total`` at this rate."""
        return None if self.rate is None else (self.total - self.done) / self.rate


def progress(log: str) -> Progress | None:
    """The progress in a log's last lines, None where there is none yet."""
    lines = [found for line in log.splitlines() if (found := PROGRESS.match(line))]
    if not lines:
        return None
    last = lines[-1]
    unit = "steps" if last["step"] else last["unit"] or ""
    first = _first_of_pass(lines[-RECENT:])
    seconds = (_seconds(last) - _seconds(first)) % DAY
    done = int(last["done"]) - int(first["done"])
    rate = done / seconds if seconds > 0 and done > 0 else None
    return Progress(int(last["done"]), int(last["total"]), unit, rate, last["values"] or "")


def _first_of_pass(lines: list[re.Match[str]]) -> re.Match[str]:
    """The first of the lines that count up to the last one: a job may count several times."""
    first = lines[-1]
    for line in reversed(lines[:-1]):
        if (line["total"], line["unit"]) != (first["total"], first["unit"]) or int(line["done"]) >= int(
            first["done"]
        ):
            break
        first = line
    return first


def _seconds(line: re.Match[str]) -> int:
    hours, minutes, seconds = map(int, line.groups()[:3])
    return 3600 * hours + 60 * minutes + seconds


def report(root: Path) -> Iterator[str]:
    """One or two lines for every job that runs in ``root`` now."""
    jobs = running_jobs(root)
    if not jobs:
        yield "no job runs in this folder"
    for job in jobs:
        wildcards = " ".join(f"{name}={value}" for name, value in job.wildcards.items())
        place = job.host if job.slurm_job is None else f"{job.host}, SLURM job {job.slurm_job}"
        place += "".join(f", {_gpu(name)}" for name in job.gpus)
        yield f"{job.rule}  {wildcards}  ({place}; runs for {_clock(time.time() - job.started)})"
        log = root / job.log
        if (found := progress(_tail(log))) is not None:
            silent = time.time() - log.stat().st_mtime
            since = f", nothing new for {_clock(silent)}" if silent > SILENT else ""
            yield f"    {_line(found)}{since}"


def _gpu(name: str) -> str:
    """A GPU by its number, or by the beginning of its UUID."""
    return f"GPU {name}" if name.isdecimal() else name[:NAMED]


def _line(found: Progress) -> str:
    parts = [f"{found.done:,} of {found.total:,} {found.unit}".rstrip()]
    if found.rate is not None and found.left is not None:
        parts += [f"{found.rate:,.3g} a second", f"{_clock(found.left)} left"]
    return ", ".join([*parts, *filter(None, [found.values])])


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""  # it starts just now, or is not ours to read


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))
