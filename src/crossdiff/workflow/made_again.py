"""A cache that is made again as it was makes nothing below it run again.

``activations.keep: false`` removes caches. A crosscoder that is added later needs them, so they are harvested
again. Snakemake would then run all jobs again that had read the removed caches. This module keeps it from
that, unless the harvest runs for another reason: a changed model, setting or code, or ``--forcerun``.

Torch-free.
"""

from collections.abc import Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdiff.provenance.records import record_path
from crossdiff.provenance.removed import removed

if TYPE_CHECKING:
    from snakemake.dag import DAG
    from snakemake.jobs import Job, Reason
    from snakemake.workflow import Workflow

# What makes a job run for its own sake. A missing output is no such reason: another job needs it.
REASONS = (
    "updated_input",
    "input_changed",
    "code_changed",
    "params_changed",
    "software_stack_changed",
    "forced",
    "noio",
    "nooutput",
    "unfinished_queue_input",
)


def stop_at_caches(workflow: "Workflow", first_made: Mapping[str, int]) -> None:
    """Change how Snakemake finds the jobs that another one makes run (``DAG.update_needrun``).

    ``first_made``: cache that was made again -> when it was made first, in nanoseconds. Snakemake takes it
    for as old as that while it plans. Otherwise it would run all jobs that had read the first one.
    """
    from snakemake.dag import DAG
    from snakemake.io import Mtime

    if not workflow.is_main_process:
        return
    times = {path: Mtime(local=time / 1e9, local_target=time / 1e9) for path, time in first_made.items()}
    whole = DAG.update_needrun

    @wraps(whole)  # keeps the marks of other changes
    async def update_needrun(dag: "DAG", *arguments: Any, **named: Any) -> None:
        dag.workflow.iocache.mtime.update(times)
        below = dag.depending
        while True:
            seen = dag.depending = _Seen(dag, below)
            try:
                await whole(dag, *arguments, **named)
            finally:
                dag.depending = below
            # A job above may have been found to run after Snakemake had looked below the cache.
            if all(map(seen.is_as_before, seen.passed)):
                return

    if not getattr(whole, "stops_at_caches", False):
        update_needrun.stops_at_caches = True  # type: ignore[attr-defined]
        DAG.update_needrun = update_needrun


class _Seen:
    """``DAG.depending`` while Snakemake looks for jobs to run: job -> jobs below it -> the files between.

    Below a job that makes removed results again as they were, jobs that read these are left out.
    """

    def __init__(self, dag: "DAG", below: Mapping["Job", Any]) -> None:
        self.dag, self.below = dag, below
        self.passed: set[Job] = set()  # jobs below which some were left out
        self._known: dict[str, bool] = {}

    def __getitem__(self, job: "Job") -> Mapping["Job", Any]:
        found = self.below[job]
        if not self.is_as_before(job):
            return found
        self.passed.add(job)
        return {other: files for other, files in found.items() if not self._all_known(files)}

    def is_as_before(self, job: "Job") -> bool:
        """Whether a job runs only because some of its outputs were removed as configured."""
        reason = self.dag.reason(job)
        return bool(reason.missing_output) and not _own(reason) and self._all_known(job.output)

    def _all_known(self, files: Iterable[str]) -> bool:
        """Whether all files are there with their records, or were removed as configured."""
        return all(map(self._is_known, map(str, files)))

    def _is_known(self, path: str) -> bool:
        if path not in self._known:
            there = Path(path).exists() and record_path(path).exists()
            self._known[path] = there or removed(path) is not None
        return self._known[path]


def _own(reason: "Reason") -> bool:
    """Whether a job runs for a reason of its own, or because one above it runs."""
    above = any(not file.is_ancient for file in reason.updated_input_run)
    return above or any(getattr(reason, name) for name in REASONS)
