"""Jobs that run at the same time see different GPUs, and give them back however they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossdiff.errors import UserError
from crossdiff.provenance.code import SCRIPTS
from crossdiff.workflow import gpu_claims, machine_gpus
from crossdiff.workflow.gpu_claims import NAMES, SHARE, announce, claim
from crossdiff.workflow.machine_gpus import GPU

FOUR = "GPU-a,GPU-b,GPU-c,GPU-d"
JOB = """
import os, subprocess, sys, time
from crossdiff.workflow.gpu_claims import claim
taken = claim(int(sys.argv[1]))
assert os.environ.get("CUDA_VISIBLE_DEVICES") == (",".join(taken) or None)
child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL) if sys.argv[2] == "child" else None
if sys.argv[2] == "fork" and os.fork() == 0:
    os.close(1)
    time.sleep(600)
print(",".join(taken), flush=True)
sys.stdin.readline()
"""

# What the frame of a job relies on: CUDA reads CUDA_VISIBLE_DEVICES when it is first asked, not at an import.
IMPORTS = """
import ast, sys, torch
from pathlib import Path
def asked(*_):
    raise AssertionError("CUDA is asked before the job has claimed its GPU")
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    if hasattr(torch._C, name):  # not in a torch for CPUs
        setattr(torch._C, name, asked)
torch.cuda.is_available = torch.cuda.device_count = asked
for script in sorted(Path(sys.argv[1]).glob("*.py")):
    body = ast.parse(script.read_text()).body
    imports = [part for part in body if isinstance(part, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), script, "exec"), {})
    print(script.stem)
"""
SEES = """
import sys, torch
from crossdiff.workflow.gpu_claims import claim
[name] = claim(1)
assert torch.cuda.device_count() == 1
print(torch.cuda.get_device_properties(0).uuid, flush=True)
sys.stdin.readline()
"""


class Job:
    """A process that claims GPUs and runs until it is told to end."""

    def __init__(self, folder: Path, number: int, kind: str, code: str = JOB, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        source = {"PYTHONPATH": str(Path(gpu_claims.__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(number), kind],
            cwd=folder,
            env=clean | source | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def gpus(self) -> list[str]:
        """Wait until the job has claimed its GPUs, and return them."""
        return self.process.stdout.readline().strip().split(",")

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill the job and every process that it has left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Machine:
    """Starts jobs on four pretended GPUs, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, []

    def start(self, number: int = 1, kind: str = "alone", share: int = 1, names: str = FOUR) -> Job:
        self.jobs.append(Job(self.folder, number, kind, **{NAMES: names, SHARE: str(share)}))
        return self.jobs[-1]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    started = Machine(tmp_path)
    yield started
    for job in started.jobs:
        job.close()


def test_jobs_see_different_gpus_and_give_them_back(machine: Machine) -> None:
    jobs = [machine.start() for _ in range(4)]  # they start at the same time
    taken = [job.gpus() for job in jobs]
    assert sorted(map(tuple, taken)) == [("GPU-a",), ("GPU-b",), ("GPU-c",), ("GPU-d",)]
    jobs[2].end()
    assert machine.start().gpus() == taken[2]
    files = list((machine.folder / gpu_claims.CLAIMS).glob("*/*.lock"))
    assert len(files) == 4  # those of ended jobs are deleted


@pytest.mark.parametrize("kind", ["alone", "child", "fork"])
def test_killed_job_gives_its_gpu_back_even_if_a_process_of_it_lives_on(machine: Machine, kind: str) -> None:
    first, *_ = [machine.start(kind=kind), *(machine.start() for _ in range(3))]
    taken = first.gpus()
    for job in machine.jobs[1:]:
        job.gpus()
    first.kill()
    assert machine.start().gpus() == taken


def test_a_job_on_two_gpus_waits_until_two_are_free(machine: Machine) -> None:
    first, second, third = (machine.start() for _ in range(3))
    first.gpus()
    taken = [job.gpus()[0] for job in (second, third)]
    both = machine.start(number=2)
    with pytest.raises(subprocess.TimeoutExpired):
        both.process.wait(3)
    second.end()
    got = both.gpus()
    assert len(set(got)) == 2
    assert taken[0] in got
    assert taken[1] not in got


def test_jobs_share_gpus_where_the_user_asks_for_it(machine: Machine) -> None:
    taken = []
    for _ in range(4):
        taken += machine.start(share=2, names="GPU-a,GPU-b").gpus()
    assert taken == ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]
    machine.jobs[1].end()
    assert machine.start(share=2, names="GPU-a,GPU-b").gpus() == ["GPU-b"]  # the least used one


def test_other_folders_do_not_count(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert machine.start().gpus() == ["GPU-a"]
    machine.folder = tmp_path / "other"
    assert machine.start().gpus() == ["GPU-a"]


def test_jobs_that_claim_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.delenv(NAMES, raising=False)
    assert claim(1, tmp_path / "gpus") == []
    monkeypatch.setenv(NAMES, FOUR)
    assert claim(0, tmp_path / "gpus") == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    assert not (tmp_path / "gpus").exists()
    with pytest.raises(UserError, match=r"^on_gpu: found 5, allowed on this machine: up to 4$"):
        claim(5, tmp_path / "gpus")


def test_folder_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(gpu_claims.fcntl, "lockf", refuse)
    monkeypatch.setenv(NAMES, FOUR)
    monkeypatch.setenv(SHARE, "1")
    with pytest.raises(UserError, match=r"gpus: files can't be locked there \(Function not implemented\)"):
        claim(1, tmp_path / "gpus")


@pytest.mark.parametrize(
    ("executor", "gpus", "limit", "told"),
    [
        ("local", 4, 4, (FOUR, "1")),
        ("local", 4, 1, (FOUR, "1")),
        ("local", 4, 8, (FOUR, "2")),
        ("local", 4, 9, (FOUR, "3")),
        ("local", 1, 1, (None, None)),
        ("local", 0, 4, (None, None)),
        ("slurm", 4, 4, (None, None)),
    ],
)
def test_a_run_tells_its_jobs_which_gpus_there_are(
    monkeypatch: pytest.MonkeyPatch, executor: str, gpus: int, limit: int, told: tuple[str | None, str | None]
) -> None:
    monkeypatch.setenv(NAMES, "left by another run")
    monkeypatch.setenv(SHARE, "1")
    found = [GPU(name, 80e9) for name in FOUR.split(",")[:gpus]]
    monkeypatch.setattr(machine_gpus, "_found", lambda *_: tuple(found))
    announce(
        SimpleNamespace(
            executor_plugin=SimpleNamespace(name=executor),
            global_resources={"on_gpu": SimpleNamespace(value=limit)},
        )
    )
    assert (os.environ.get(NAMES), os.environ.get(SHARE)) == told


def test_no_script_asks_cuda_when_it_is_imported() -> None:
    code = [sys.executable, "-c", IMPORTS, str(SCRIPTS)]
    ended = subprocess.run(code, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "harvest_activations" in ended.stdout.split()


@pytest.mark.gpu
def test_torch_sees_the_claimed_gpu_alone(tmp_path: Path) -> None:
    """One process for each GPU of this machine. With several GPUs, each process sees another one."""
    names = [gpu.name for gpu in machine_gpus.found()]
    environment = {NAMES: ",".join(names), SHARE: "1"}
    jobs = [Job(tmp_path, 1, "alone", code=SEES, **environment) for _ in names]
    assert len({job.gpus()[0] for job in jobs}) == len(names)
    for job in jobs:
        job.end()
