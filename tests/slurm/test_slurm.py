"""``snakemake --profile slurm`` on a real cluster gives a local run's outputs, with and without faults."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cluster
import pandas as pd
import pytest
from on_cluster import PATIENCE, OnCluster, Run, hashes, until

from crossdiff.cli import main
from crossdiff.provenance.records import read_record
from crossdiff.workflow.slurm import clean
from crossdiff.workflow.watch import report

pytestmark = pytest.mark.slurm
TRAINED = "results/tiny/layer1/slow/seed0"
WEIGHTS = f"{TRAINED}/weights.safetensors"
TRAINING_LOG = "logs/tiny/layer1/slow/seed0/train_crosscoder.log"


@pytest.fixture(scope="module", autouse=True)
def running_cluster() -> Iterator[None]:
    if os.getuid() != 0 or shutil.which("slurmctld") is None:
        pytest.skip("needs root and SLURM's packages: make test-slurm")
    cluster.start()
    yield
    cluster.stop()


@pytest.fixture(scope="module")
def without_cluster(tmp_path_factory: pytest.TempPathFactory) -> OnCluster:
    """A run on this machine alone, up to the weights."""
    checkout = OnCluster(tmp_path_factory.mktemp("alone") / "checkout")
    result = checkout.snakemake(WEIGHTS, "--configfile", checkout.config, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout
    return checkout


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[OnCluster]:
    """A checkout without results; the nodes are up."""
    cluster.start()
    checkout = OnCluster(tmp_path / "checkout")
    yield checkout
    checkout.close()


@pytest.fixture
def untrained(without_cluster: OnCluster, fresh: OnCluster) -> OnCluster:
    """A copy of the finished run without the crosscoder's weights."""
    checkout = fresh
    for name in ("results", ".snakemake"):
        shutil.copytree(without_cluster.folder / name, checkout.folder / name, copy_function=shutil.copy2)
    shutil.rmtree(checkout.folder / TRAINED)
    return checkout


def start_training(checkout: OnCluster) -> tuple[Run, str]:
    """Start Snakemake; give it and the SLURM job in which a training has begun.

    The training takes seconds a step until ``checkout.pause(0)``.
    """
    checkout.pause(2)
    run = checkout.start(WEIGHTS)
    until(lambda: run.process.poll() is not None or (checkout.folder / TRAINED / ".checkpoint.lock").exists())
    [job] = checkout.running_jobs()
    return run, job


def state(job: str) -> str:
    return cluster.output("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def assert_as_without_cluster(checkout: OnCluster, without_cluster: OnCluster) -> None:
    """Records and files of the training agree with the undisturbed run, and nothing else is left."""
    assert hashes(checkout.folder) == hashes(without_cluster.folder)
    for name in ("weights.safetensors", "config.json", "training.csv"):
        assert (checkout.folder / TRAINED / name).read_bytes() == (
            without_cluster.folder / TRAINED / name
        ).read_bytes()
    assert not list((checkout.folder / TRAINED).glob(".*"))


def test_job_cancelled_from_outside_goes_on_where_it_was(
    untrained: OnCluster, without_cluster: OnCluster
) -> None:
    run, job = start_training(untrained)
    assert any(
        line.startswith("train_crosscoder  ") and f"SLURM job {job};" in line
        for line in report(untrained.folder)
    )
    cluster.output("scancel", job)
    until(lambda: state(job) == "CANCELLED")
    untrained.pause(0)
    assert "CANCELLED" in run.finish()
    assert "resumed after step" in (untrained.folder / TRAINING_LOG).read_text()
    assert_as_without_cluster(untrained, without_cluster)


def test_job_over_its_memory_gets_more(untrained: OnCluster, without_cluster: OnCluster) -> None:
    untrained.profile({"mem_mb": "350 if attempt == 1 else 3000"})
    untrained.pause(0.1)
    assert "Trying to restart job" in untrained.start(WEIGHTS).finish()
    assert_as_without_cluster(untrained, without_cluster)


def test_lost_node(untrained: OnCluster, without_cluster: OnCluster) -> None:
    run, job = start_training(untrained)
    cluster.crash(cluster.output("squeue", "-h", "-j", job, "-o", "%N").strip())
    untrained.pause(0)
    assert "Trying to restart job" not in run.finish()  # SLURM has started the job again
    assert "taking over" in (untrained.folder / TRAINING_LOG).read_text()
    assert_as_without_cluster(untrained, without_cluster)


def test_controller_restarts(untrained: OnCluster, without_cluster: OnCluster) -> None:
    run, _ = start_training(untrained)
    cluster.kill_controller()
    cluster.start_controller()
    untrained.pause(0)
    assert "Trying to restart job" not in run.finish()
    assert_as_without_cluster(untrained, without_cluster)


def test_training_at_its_time_limit_goes_on_where_it_was(
    untrained: OnCluster, without_cluster: OnCluster
) -> None:
    untrained.profile({"runtime": "1 if attempt == 1 else 20"})
    run, job = start_training(untrained)
    until(lambda: state(job) == "TIMEOUT")
    untrained.pause(0)
    assert "TIMEOUT" in run.finish()
    assert "resumed after step" in (untrained.folder / TRAINING_LOG).read_text()
    assert_as_without_cluster(untrained, without_cluster)


def test_training_on_two_gpus(untrained: OnCluster, without_cluster: OnCluster) -> None:
    untrained.profile({"gres": "gpu:2"})
    untrained.start(WEIGHTS).finish()
    assert "training in 2 processes" in (untrained.folder / TRAINING_LOG).read_text()
    assert read_record(untrained.folder / WEIGHTS).run["cuda_visible_devices"] == "0,1"
    together, alone = (
        pd.read_csv(checkout.folder / TRAINED / "training.csv") for checkout in (untrained, without_cluster)
    )
    assert together.loss.to_numpy() == pytest.approx(alone.loss.to_numpy(), rel=1e-3)


def test_snakemake_killed_and_started_again_beside_its_orphan(
    untrained: OnCluster, without_cluster: OnCluster
) -> None:
    run, orphan = start_training(untrained)
    run.kill()
    assert untrained.snakemake("--unlock", "--configfile", untrained.config).returncode == 0
    again = untrained.start(WEIGHTS)
    until(lambda: len(untrained.running_jobs()) == 2 or again.process.poll() is not None)
    assert orphan in untrained.running_jobs()
    untrained.pause(0)
    again.finish()
    until(lambda: not untrained.running_jobs())
    assert_as_without_cluster(untrained, without_cluster)


def test_slurm_clean_cancels_orphans_and_nothing_else(
    untrained: OnCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, orphan = start_training(untrained)
    submit = ["sbatch", "--parsable", "--job-name=crossdiff_other", "--mem=100", "--wrap=sleep 600"]
    other = cluster.output(*submit, f"--chdir={tmp_path}").strip()
    until(lambda: state(other) == "RUNNING")
    monkeypatch.chdir(untrained.folder)
    assert main(["slurm-clean"]) == 2
    assert f"process {run.process.pid}: Snakemake still runs" in capsys.readouterr().err
    run.kill()
    assert main(["slurm-clean"]) == 0
    assert f"cancelled: SLURM job {orphan} (rule_train_crosscoder" in capsys.readouterr().out
    assert untrained.running_jobs() == []
    assert state(other) == "RUNNING"
    assert not (untrained.folder / WEIGHTS).exists()
    assert clean(untrained.folder) == []
    cluster.output("scancel", other)


def test_whole_pipeline(without_cluster: OnCluster, fresh: OnCluster) -> None:
    """This test comes last: it completes the run that the others compare with."""
    fresh.start().finish()
    result = without_cluster.snakemake("--configfile", without_cluster.config, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout
    assert hashes(fresh.folder) == hashes(without_cluster.folder)
    run = read_record(
        fresh.folder / "results/activations/tiny-base/layer1/tiny-chat/requests.train/0000.h5"
    ).run
    assert run["slurm_job"]
    assert run["cuda_visible_devices"] in ("0", "1")
    assert (
        read_record(fresh.folder / "results/tokens/tiny-chat/requests.train/0000.parquet").run[
            "cuda_visible_devices"
        ]
        is None
    )
    assert read_record(fresh.folder / "results/tiny/layer1/tables/crosscoders.csv").run["slurm_job"] is None


@pytest.mark.parametrize(
    ("resources", "arguments", "message"),
    [
        (
            {"slurm_partition": "fast"},
            [],
            "rule train_crosscoder: slurm_partition: found 'fast', allowed: cpu gpu",
        ),
        (
            {"gres": "gpu:3"},
            [],
            "rule train_crosscoder: found slurm_partition gpu, gres gpu:3, mem_mb 3000, runtime 20, "
            "threads 1: no node",
        ),
        (
            {"runtime": 700},
            [],
            "rule train_crosscoder: runtime: found 700 minutes, allowed in gpu: up to 600",
        ),
        ({"mem_mb": 17000}, [], "mem_mb 17000, runtime 20, threads 1: no node can serve that"),
        (
            {},
            ["--slurm-status-command", "sacct"],
            "slurm-status-command: found sacct, which answers 'Slurm accounting storage is disabled'",
        ),
    ],
)
def test_what_the_cluster_can_not_do_is_named_before_any_job(
    fresh: OnCluster, resources: dict[str, object], arguments: list[str], message: str
) -> None:
    fresh.profile(resources)
    run = fresh.start(*arguments)
    assert run.process.wait(PATIENCE) == 1
    assert message in run.log.read_text()
    assert not fresh.running_jobs()
    assert not (fresh.folder / "results").exists()
