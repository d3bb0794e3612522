"""How long everything took that a result was made from, by the records. Torch-free.

Records travel with results, so this works on another machine, too. Results do not hold times, because the
same run would then give other bytes each time.
"""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from crossdiff.provenance.records import Record, is_result, read_record


class Stage(NamedTuple):
    """The jobs of one rule."""

    rule: str
    jobs: int
    seconds: float  # of all jobs, one after the other
    longest: float  # seconds of the longest job


def stages(path: str, root: Path) -> list[Stage]:
    """Return the rules behind the result ``path`` below ``root``, in the order in which they began.

    A job that made several results counts once, also if it stood for several jobs. Raises RecordError if a
    result has no record.
    """
    jobs: dict[tuple[str, ...], tuple[str, float]] = {}
    for record in sorted(_records(path, root), key=lambda record: (record.run["started"], record.rule)):
        run = record.run
        names = ("host", "started", "finished", "recording_seconds")
        jobs.setdefault(tuple(str(run[name]) for name in names), (record.rule, _seconds(record)))
    found: dict[str, list[float]] = {}
    for rule, seconds in jobs.values():
        found.setdefault(rule, []).append(seconds)
    return [Stage(rule, len(each), sum(each), max(each)) for rule, each in found.items()]


def lines(found: list[Stage]) -> list[str]:
    """The stages as a table of text, with their sum below."""
    total = Stage("all", sum(one.jobs for one in found), sum(one.seconds for one in found), 0)
    width = max(len(one.rule) for one in (total, *found))
    rows = [
        f"{one.rule:<{width}}  {one.jobs:>5,}  {one.seconds:>9,.0f}  {one.longest:>9,.0f}" for one in found
    ]
    return [
        f"{'rule':<{width}}  {'jobs':>5}  {'seconds':>9}  {'longest':>9}",
        *rows,
        f"{total.rule:<{width}}  {total.jobs:>5,}  {total.seconds:>9,.0f}",
    ]


def _seconds(record: Record) -> float:
    started, finished = (datetime.fromisoformat(record.run[name]) for name in ("started", "finished"))
    return (finished - started).total_seconds()


def _records(path: str, root: Path) -> list[Record]:
    """The records of a result and of all results that it was made from."""
    found: dict[str, Record] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one not in found and is_result(one):
            found[one] = read_record(root / one)
            waiting += [entry.path for entry in found[one].inputs]
    return list(found.values())
