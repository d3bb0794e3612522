"""Let Snakemake look at every job for changes of its own, also below ``ancient`` inputs.

Snakemake 9.27 does not look at a job if a job above it runs, because that job will make it run. Over an
``ancient`` input it does not. A change of code that concerns a check and the harvest would then redo the
check alone, and old activations would pass for new ones until the next run.

Torch-free.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakemake.dag import DAG
    from snakemake.jobs import Job


def stop_at_ancient_edges() -> None:
    """Change how Snakemake finds the jobs that it need not look at (``DAG.update_needrun``)."""
    from snakemake.dag import DAG

    whole = DAG.update_needrun

    async def update_needrun(dag: "DAG", *arguments: Any, **named: Any) -> None:
        # It asks for the jobs below one that runs, and for nothing else.
        dag.bfs = _made_to_run
        try:
            await whole(dag, *arguments, **named)
        finally:
            del dag.bfs

    if not getattr(whole, "stops", False):
        update_needrun.stops = True  # type: ignore[attr-defined]
        DAG.update_needrun = update_needrun


def _made_to_run(depending: Any, job: "Job") -> Iterator["Job"]:
    """``job`` and all jobs below it, except those that only ``ancient`` inputs lead to."""
    waiting, seen = [job], {job}
    while waiting:
        above = waiting.pop()
        yield above
        for below, files in depending[above].items():
            if below not in seen and not all(file.is_ancient for file in files):
                seen.add(below)
                waiting.append(below)
