"""What ``crossdiff watch`` says of running jobs, from their files alone."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossdiff.cli import main
from crossdiff.workflow import running as running_module
from crossdiff.workflow.running import LOST, RUNNING, running, running_jobs
from crossdiff.workflow.watch import progress, report

LOG = """\
12:00:00 resumed after step 100 of 976
12:00:10 step 200 of 976: loss 41.2, fve_base 0.81
12:00:30 step 300 of 976: loss 40.1, fve_base 0.84
"""


def a_job(log: str = "logs/train.log") -> SimpleNamespace:
    return SimpleNamespace(rule="train_crosscoder", wildcards={"crosscoder": "l1", "seed": "0"}, log=[log])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_progress_of_a_training() -> None:
    found = progress(LOG)
    assert found is not None
    assert (found.done, found.total, found.unit, found.rate) == (300, 976, "steps", 5.0)
    assert found.left == pytest.approx(676 / 5)
    assert found.values == "loss 40.1, fve_base 0.84"


def test_progress_of_other_jobs() -> None:
    found = progress("23:59:50 1000 of 9000 tokens\nsome warning\n00:00:10 3000 of 9000 tokens\n")
    assert found is not None
    assert (found.unit, found.rate, found.left) == ("tokens", 100.0, 60.0)


@pytest.mark.parametrize("log", ["", "12:00:00 reading\n", "refused 3 of 8 requests\n"])
def test_no_progress(log: str) -> None:
    assert progress(log) is None


def test_no_rate_from_one_line_or_another_pass() -> None:
    one, other = (
        progress("12:00:00 1 of 4 answers\n"),
        progress("12:00:00 8 of 9 tokens\n12:00:09 1 of 4 tokens\n"),
    )
    assert one is not None and other is not None
    assert one.rate is other.rate is one.left is None


def test_a_job_is_listed_while_it_runs(folder: Path) -> None:
    Path("logs").mkdir()
    Path("logs/train.log").write_text(LOG)
    with running(a_job()):
        first, second = report(folder)
        assert first.startswith(
            f"train_crosscoder  crosscoder=l1 seed=0  ({socket.gethostname()}; runs for 0:00:0"
        )
        assert second == "    300 of 976 steps, 5 a second, 0:02:15 left, loss 40.1, fve_base 0.84"
    assert list(report(folder)) == ["no job runs in this folder"]


def test_a_failed_job_is_not_listed(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), running(a_job()):
        raise ZeroDivisionError
    assert running_jobs(folder) == []


def test_a_killed_job_is_not_listed(folder: Path) -> None:
    code = """
import time
from types import SimpleNamespace
from crossdiff.workflow.running import running
with running(SimpleNamespace(rule="tokenise", wildcards={}, log=["log"])):
    print("runs", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        assert [job.pid for job in running_jobs(folder)] == [process.pid]
        process.kill()
    assert running_jobs(folder) == []
    assert not list((folder / RUNNING).iterdir())


def test_a_job_on_another_machine_counts_until_it_is_silent(folder: Path) -> None:
    with running(a_job()):
        [path] = (folder / RUNNING).iterdir()
        job = json.loads(path.read_text())
    other = folder / RUNNING / "node7.1.json"
    other.write_text(json.dumps(job | {"host": "node7", "slurm_job": "123"}))
    assert "(node7, SLURM job 123; runs for" in next(report(folder))
    os.utime(other, (time.time() - 2 * LOST,) * 2)
    assert running_jobs(folder) == []
    assert other.exists()  # its machine may only have another clock
    os.utime(other, (0, 0))
    assert running_jobs(folder) == []
    assert not other.exists()


def test_gpus_that_a_job_has_claimed(folder: Path) -> None:
    with running(a_job(), ["GPU-1a2b3c4d-0000-0000-0000-000000000000", "3"]):
        assert ", GPU-1a2b3c4d, GPU 3; runs for" in next(report(folder))


def test_rate_is_of_the_last_pass() -> None:
    before = "12:00:00 20 of 40 answers\n12:00:10 40 of 40 answers\n"
    found = progress(before + "12:01:00 10 of 40 answers\n12:01:10 20 of 40 answers\n")
    assert found is not None
    assert (found.rate, found.left) == (1.0, 20.0)
    found = progress("12:00:00 3 of 9 latents explained\n12:00:02 5 of 9 latents explained\n")
    assert found is not None
    assert (found.unit, found.rate) == ("latents explained", 1.0)


def test_job_that_says_nothing_for_long(folder: Path) -> None:
    Path("logs").mkdir()
    Path("logs/train.log").write_text(LOG)
    os.utime("logs/train.log", (time.time() - 300,) * 2)
    with running(a_job()):
        assert list(report(folder))[1].endswith("nothing new for 0:05:00")


def test_deleted_file_of_a_job_comes_back_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "RENEWED", 0.01)
    with running(a_job()):
        [path] = (folder / RUNNING).iterdir()
        path.unlink()
        deadline = time.monotonic() + 10
        while not running_jobs(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [job.rule for job in running_jobs(folder)] == ["train_crosscoder"]


def test_job_goes_on_where_its_file_cannot_be_written(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    RUNNING.parent.mkdir(parents=True)
    RUNNING.write_text("a file in the folder's place")
    with running(a_job()):
        pass
    assert "crossdiff watch can't show this job" in caplog.text


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"rule": 1, "more": 2}', "\x00"])
def test_file_of_another_version_is_left_alone(folder: Path, content: str) -> None:
    (folder / RUNNING).mkdir(parents=True)
    (folder / RUNNING / "node.1.json").write_text(content)
    assert running_jobs(folder) == []


def test_a_job_renews_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "RENEWED", 0.01)
    threads = threading.active_count()
    with running(a_job()):
        [path] = (folder / RUNNING).iterdir()
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
    assert threading.active_count() == threads


def test_command_prints_once_into_a_pipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(a_job()):
        assert main(["watch"]) == 0
    assert capsys.readouterr().out.startswith("train_crosscoder  crosscoder=l1 seed=0")


def test_command_looks_again_until_it_is_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["watch"]) == 0
    assert capsys.readouterr().out.count("no job runs in this folder") == len(looks)
