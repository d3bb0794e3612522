"""The pipeline on a real cluster: copies of the checkout, a slow loss, and Snakemake in the background."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cluster
import yaml
from conftest import ROOT, Checkout

from crossdiff.provenance.records import SUFFIX, read_record

# A loss of another package: BatchTopK with a pause in every step, so that a fault strikes during a training
# on a fast machine too. The pause is a file, not a setting. So the result is that of an undisturbed training,
# and the pause can end early.
SLOW = {
    "slow/__init__.py": "",
    "slow/settings.py": """
from typing import Literal
from crossdiff.config import BatchTopKSettings

class Slow(BatchTopKSettings):
    objective = "slow.loss:SlowLoss"
    loss: Literal["slow"]
""",
    "slow/loss.py": """
import time
from pathlib import Path
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss

class SlowLoss(BatchTopKLoss):
    def forward(self, crosscoder, x, step):
        time.sleep(float(Path("pause").read_text()))
        return super().forward(crosscoder, x, step)
""",
    "slow-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: slow\nVersion: 1\n",
    "slow-1.dist-info/entry_points.txt": "[crossdiff.losses]\nslow = slow.settings:Slow\n",
}
STEPS = 100
PATIENCE = 1200  # seconds; a loaded machine is no failure


class OnCluster(Checkout):
    """A checkout whose Snakemake submits to the cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name, text in SLOW.items():
            path = folder / "src" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        tiny = yaml.safe_load((folder / "configs/tiny.yaml").read_text())
        slow = tiny["crosscoders"]["batchtopk"] | {"loss": "slow", "tokens": STEPS * 256}
        fewer = {
            "datasets": {"requests": tiny["datasets"]["requests"]},
            "tokens.shard": 12000,
            "crosscoders": {"slow": slow},
            "seeds": [0],
        }
        fewer |= {"steering": None, "catalogue": None}  # they name crosscoders
        self.config = self.changed("configs/tiny.yaml", fewer)  # each SLURM job costs some ten seconds of CPU
        self.profile({})
        self.pause(0)
        self.runs: list[Run] = []

    def profile(self, resources: dict[str, object]) -> None:
        """Write the shipped profile with quick polls and small jobs; trainings get ``resources``, too."""
        profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
        profile |= {
            "slurm-init-seconds-before-status-checks": 2,
            "latency-wait": 20,
            # One thread, as in the run without a cluster: in float32 two threads round differently.
            "set-threads": ["finetune_model=1"],
        }
        profile["default-resources"] |= {"mem_mb": "3000 * attempt"}
        gpu = profile["set-resources"]["train_crosscoder"]
        for rule in profile["set-resources"]:
            profile["set-resources"][rule] = gpu | {"mem_mb": 3000, "runtime": 20}
        profile["set-resources"]["train_crosscoder"] |= resources
        (self.folder / "slurm/config.yaml").write_text(yaml.safe_dump(profile))

    def pause(self, seconds: float) -> None:
        """Let every training step take this long from now on."""
        (self.folder / "pause.new").write_text(str(seconds))
        (self.folder / "pause.new").replace(self.folder / "pause")

    def start(self, *arguments: str) -> "Run":
        """Start ``snakemake --profile slurm`` and do not wait."""
        self.runs.append(Run(self, ["--profile", "slurm", *arguments, "--configfile", self.config]))
        return self.runs[-1]

    def close(self) -> None:
        """End what a failed test has left running."""
        for run in self.runs:
            run.kill()
        for job in self.running_jobs():
            cluster.output("scancel", job)

    def running_jobs(self) -> list[str]:
        """Ids of the jobs that run in this checkout."""
        lines = [
            line.split("|") for line in cluster.output("squeue", "-h", "-t", "R", "-o", "%A|%Z").splitlines()
        ]
        return [job for job, folder in lines if folder == str(self.folder)]


class Run:
    """Snakemake in the background."""

    def __init__(self, checkout: Checkout, arguments: list[str]) -> None:
        self.log = checkout.folder / "snakemake.log"
        environment = os.environ | {
            "PYTHONPATH": str(checkout.folder / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "snakemake", *arguments]
            self.process = subprocess.Popen(
                command, cwd=checkout.folder, env=environment, stdout=log, stderr=log
            )

    def finish(self, seconds: float = PATIENCE) -> str:
        """Wait until it ends well; gives what it said."""
        assert self.process.wait(seconds) == 0, self.log.read_text()
        return self.log.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.2)


def hashes(folder: Path) -> dict[str, str]:
    """Every recorded output below results/ -> its digest."""
    outputs = [
        path.with_name(path.name.removesuffix(SUFFIX))
        for path in sorted((folder / "results").rglob(f"*{SUFFIX}"))
    ]
    names = [path.relative_to(folder).as_posix() for path in outputs]
    return {name: read_record(path).output(name).digest for name, path in zip(names, outputs, strict=True)}
