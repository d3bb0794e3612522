"""Keep what was made from token shards that are tokenised again and stay as they are.

If a text has changed, every shard of its data set is tokenised again, because nothing else tells where each
shard ends. Shards whose tokens are the same keep their files (``texts.tokenising``). Snakemake decides before
a run what depends on a job, and would redo all of it. As a checkpoint, the rule lets Snakemake look again
when the shard is there. It is one only in runs that tokenise existing shards, because each look takes as long
as planning the run.

Torch-free.
"""

import atexit
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

RULE = "tokenise"


def look_again(workflow: "Workflow") -> None:
    """Make ``tokenise`` a checkpoint if this run tokenises shards that exist.

    Snakemake calls this when the DAG is known and no job has started.
    """
    if _again(workflow):
        workflow.get_rule(RULE).is_checkpoint = True


def tell(workflow: "Workflow") -> None:
    """Let a dry-run say at its end that it lists more jobs than may run."""
    atexit.register(_tell, workflow)


def _tell(workflow: "Workflow") -> None:
    if workflow.dryrun and workflow.dag is not None and (again := _again(workflow)):
        print(
            f"{again} token shards are tokenised again. What was made from those whose tokens stay is kept, "
            "so fewer jobs may run than are listed here.",
            file=sys.stderr,
        )


def _again(workflow: "Workflow") -> int:
    """How many shards of this run exist and are tokenised again."""
    jobs = [job for job in workflow.dag.needrun_jobs(exclude_finished=False) if job.rule.name == RULE]
    return sum(Path(job.output.shard).exists() for job in jobs)
