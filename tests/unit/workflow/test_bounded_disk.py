"""Which caches are removed while a run goes on, by a small DAG of two pairs that share the base's caches."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossdiff.config import Config
from crossdiff.workflow import bounded_disk
from crossdiff.workflow.bounded_disk import remove_while_running

BASE, ONE, TWO = "base.h5", "one.h5", "two.h5"


class Job(SimpleNamespace):
    def __hash__(self) -> int:
        return id(self)

    def is_group(self) -> bool:
        return False


class Dag:
    """As much of Snakemake's DAG as counts: a harvest per cache, a training per pair."""

    def __init__(self) -> None:
        self.harvests = {path: Job(output=[path]) for path in (BASE, ONE, TWO)}
        reads = {"train one": (BASE, ONE), "train two": (BASE, TWO)}
        self.trainings = {
            name: Job(output=[f"{name}.safetensors"], reads=paths) for name, paths in reads.items()
        }
        self.depending: dict[Job, dict[Job, set[str]]] = {
            made: {job: {path} for job in self.trainings.values() if path in job.reads}
            for path, made in self.harvests.items()
        }
        self.dependencies = {
            job: {self.harvests[path]: {path} for path in job.reads} for job in self.trainings.values()
        }
        self.jobs = [*self.harvests.values(), *self.trainings.values()]
        self.to_run, self.done = set(self.jobs), set[Job]()
        self.checkpoint_jobs: set[Job] = set()

    def needrun(self, job: Job) -> bool:
        return job in self.to_run

    def finished(self, job: Job) -> bool:
        return job in self.done

    async def finish(self, job: Job) -> bool:
        self.done.add(job)
        return True


def workflow_of(dag: Dag, **settings: object) -> SimpleNamespace:
    given = {"targets": set(), "until": set(), "omit_from": set(), "batch": None} | settings
    return SimpleNamespace(dag=dag, dag_settings=SimpleNamespace(**given), default_target="all", touch=False)


def config(keep: bool = False) -> Config:
    return SimpleNamespace(activations=SimpleNamespace(keep=keep))  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bounded_disk, "remove", lambda path: Path(path).unlink())
    for path in (BASE, ONE, TWO):
        Path(path).touch()
    return tmp_path


def left() -> set[str]:
    return {path.name for path in Path().glob("*.h5")}


def finish(dag: Dag, *jobs: Job) -> None:
    for job in jobs:
        assert asyncio.run(dag.finish(job))


def test_cache_goes_when_the_last_job_that_reads_it_is_done() -> None:
    dag = Dag()
    remove_while_running(workflow_of(dag), config())
    finish(dag, *dag.harvests.values())
    assert left() == {BASE, ONE, TWO}
    finish(dag, dag.trainings["train one"])
    assert left() == {BASE, TWO}
    finish(dag, dag.trainings["train two"])
    assert not left()


def test_jobs_that_have_nothing_to_do_need_no_cache() -> None:
    """A crosscoder of the second pair alone is added."""
    dag = Dag()
    dag.to_run = {dag.trainings["train two"]}
    remove_while_running(workflow_of(dag), config())
    finish(dag, dag.trainings["train two"])
    assert left() == {ONE}  # nothing of this run reads it: the end of the run removes it
    bounded_disk._remove_read(dag, dag.jobs)  # type: ignore[arg-type]
    assert not left()


def test_cache_stays_for_a_job_that_failed() -> None:
    dag = Dag()
    remove_while_running(workflow_of(dag), config())
    finish(dag, *dag.harvests.values(), dag.trainings["train one"])
    bounded_disk._remove_read(dag, dag.jobs)  # type: ignore[arg-type]
    assert left() == {BASE, TWO}


@pytest.mark.parametrize(
    "settings",
    [{"targets": {"activations"}}, {"until": {"train_crosscoder"}}, {"omit_from": {"scale"}}, {"batch": 1}],
)
def test_part_of_a_run_removes_nothing(settings: dict[str, object]) -> None:
    dag = Dag()
    remove_while_running(workflow_of(dag, **settings), config())
    finish(dag, *dag.jobs)
    assert left() == {BASE, ONE, TWO}


def test_default_target_by_its_name_is_the_whole_run() -> None:
    dag = Dag()
    remove_while_running(workflow_of(dag, targets={"all"}), config())
    finish(dag, *dag.jobs)
    assert not left()


def test_nothing_is_removed_while_the_plan_may_change() -> None:
    dag = Dag()
    dag.checkpoint_jobs = {Job(output=[])}
    remove_while_running(workflow_of(dag), config())
    finish(dag, *dag.jobs)
    assert left() == {BASE, ONE, TWO}


def test_keep_keeps() -> None:
    dag = Dag()
    remove_while_running(workflow_of(dag), config(keep=True))
    finish(dag, *dag.jobs)
    assert left() == {BASE, ONE, TWO}
