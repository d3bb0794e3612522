"""How long everything took that a result was made from, by the records. Torch-free.

Records travel with results, so this works on another machine, too. Results do not hold times, because the
same run would then give other bytes each time. A page shows them from a script among the logs.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from crossdiff.provenance.records import Record, RecordError, is_result, read_record
from crossdiff.provenance.storage import atomic_path


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


def write_scripts(pages: Iterable[tuple[str, str]], root: Path) -> None:
    """Write the scripts that give pages their stages. ``pages``: page and script, below ``root``.

    A script names the page's record, so that the page of a later run takes no times of an earlier one. Where
    the page or a record is missing there is no script, and the page names the command that says why.
    """
    for page, script in pages:
        (root / script).unlink(missing_ok=True)
        try:
            found = [one._asdict() for one in stages(page, root)]
        except RecordError:
            continue
        told = {"record": read_record(root / page).id, "stages": found}
        (root / script).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(root / script) as path:
            path.write_text(f"crossdiffTimes({json.dumps(told)});\n", encoding="utf-8")


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
