"""With ``activations.keep: false`` a cache is removed once all jobs that read it are done.

Snakemake's own ``temp()`` removes files too. It leaves no sign of why a file is gone, it does nothing for
caches of a run that is finished already, and with ``--until`` it ignores the jobs that are left out. So this
module asks Snakemake's DAG itself, after each job and at the end of a run.

Caches stay while a job that reads them is still to run: after a failed job, with ``--until``, and in a run
that names its targets, such as ``snakemake activations``. The next whole run removes them.

Torch-free.
"""

import atexit
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.provenance.lock import refuse_while_snakemake_runs
from crossdiff.provenance.records import RecordError
from crossdiff.provenance.removed import remove

if TYPE_CHECKING:
    from snakemake.dag import DAG
    from snakemake.jobs import Job
    from snakemake.workflow import Workflow

ENDING = ".h5"  # of all caches, harvested or planted, and of no other file


def remove_while_running(workflow: "Workflow", config: Config) -> None:
    """Remove caches as soon as they are read. Snakemake calls this when the DAG is known."""
    if config.activations.keep or not _is_whole(workflow):
        return
    dag = workflow.dag
    whole = dag.finish

    async def finish(job: Any, *arguments: Any, **named: Any) -> Any:
        ready = await whole(job, *arguments, **named)
        for finished in job if job.is_group() else [job]:
            _remove_read(dag, [finished, *dag.dependencies.get(finished, {})])
        return ready

    dag.finish = finish


def remove_at_end(workflow: "Workflow", config: Config) -> None:
    """Remove caches that are left of earlier runs when Snakemake ends, also if it had nothing to do."""
    if workflow.is_main_process and not config.activations.keep:
        atexit.register(_remove_at_end, workflow)


def _remove_at_end(workflow: "Workflow") -> None:
    # There is a scheduler if the DAG was planned as a whole to be run.
    if workflow.dryrun or workflow.scheduler is None or not _is_whole(workflow):
        return
    try:
        refuse_while_snakemake_runs(Path())
    except UserError:
        return  # the next run has begun
    if left := _remove_read(workflow.dag, workflow.dag.jobs):
        print(
            f"{left[0]}: stays, like {len(left) - 1} others, although nothing reads it any more "
            "(activations.keep: false), because it has no record that can be read; remove it yourself",
            file=sys.stderr,
        )


def _is_whole(workflow: "Workflow") -> bool:
    """Whether the DAG has all jobs of the config, so that nothing else of it reads a cache."""
    settings = workflow.dag_settings
    named = set(settings.targets) - {workflow.default_target}
    return not (named or settings.until or settings.omit_from or settings.batch or workflow.touch)


def _remove_read(dag: "DAG", makers: Iterable["Job"]) -> list[str]:
    """Remove the caches of these jobs that no job reads any more. Returns those without a readable record.

    They stay, because the audit could not say why they are gone.
    """
    if dag.checkpoint_jobs:
        return []  # the DAG may change
    caches = ((job, path) for job in makers for path in job.output if path.endswith(ENDING))
    done = [path for job, path in caches if Path(path).exists() and not _is_needed(dag, job, path)]
    left = [path for path in done if not _remove(path)]
    if gone := len(done) - len(left):
        print(f"Removed {gone} caches that no job reads any more (activations.keep: false).", file=sys.stderr)
    return left


def _is_needed(dag: "DAG", job: "Job", path: str) -> bool:
    """Whether a job that makes or reads a cache is still to run."""
    readers = (other for other, files in dag.depending[job].items() if path in files)
    return any(dag.needrun(other) and not dag.finished(other) for other in (job, *readers))


def _remove(path: str) -> bool:
    """Remove a cache. False if it stays, because it has no record that can be read."""
    try:
        remove(path)
    except RecordError:
        return False
    return True
