"""A training that is killed at a random moment (kill -9) and started again ends with the same bytes."""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
from helpers_activations import batchtopk_settings, l1_settings, planted_activations, rule_inputs
from helpers_killed import OUTPUTS, train_counting

pytestmark = pytest.mark.slow
WIDTH, STEPS, KILLS = 8, 120, 12
PRELOAD = [
    "pytest",
    "crossdiff.crosscoders.together",
    "crossdiff.workflow.job",
    "torch._dynamo",
    "pyarrow.dataset",
    "pandas",
]
COMMON = {"tokens": 64 * STEPS, "learning_rate": 1e-2, "log_every": 7, "buffer_tokens": 256}
SETTINGS = {
    "l1": l1_settings(init_norm=0.1, **COMMON),
    "batchtopk": batchtopk_settings(
        threshold_start_step=15, dead_after_tokens=300, k=2, k_max=4, k_annealing_steps=20, **COMMON
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return rule_inputs(tmp_path_factory.mktemp("caches"), *planted_activations(900, WIDTH).split(450))


class Job:
    """A training in a process of its own, forked from one that has only done its imports."""

    def __init__(self, inputs: dict[str, Any], losses: str, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.done = context.RawValue("i", 0)  # no lock: a killed process would never give it back
        orders = [
            (loss, inputs, SETTINGS[loss].model_dump(mode="json"), folder / loss) for loss in losses.split()
        ]
        self.process = context.Process(target=train_counting, args=(orders, self.done))
        self.process.start()

    def kill_after(self, step: int, seconds: float) -> bool:
        """Kill it with -9, ``seconds`` after its step ``step`` of all steps; tell whether it still ran."""
        while self.done.value < step and self.process.is_alive():
            time.sleep(0.001)
        self.process.join(seconds)
        running = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return running

    def finish(self) -> None:
        self.process.join(600)
        assert self.process.exitcode == 0


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("losses", ["l1", "batchtopk", "l1 batchtopk"])
def test_training_killed_again_and_again_ends_with_the_same_bytes(
    inputs: dict[str, Any], tmp_path: Path, losses: str
) -> None:
    """The last job trains two together, whose checkpoints are of different steps when it is killed."""
    Job(inputs, losses, tmp_path / "whole").finish()
    draw = random.Random(f"{losses} 0")
    steps = sorted(draw.sample(range(1, STEPS - 20), KILLS))
    killed = [
        Job(inputs, losses, tmp_path / "killed").kill_after(step, draw.random() * 0.01) for step in steps
    ]
    assert sum(killed) == KILLS
    first, *others = losses.split()
    assert not (tmp_path / "killed" / first / "weights.safetensors").exists()
    Job(inputs, losses, tmp_path / "killed").finish()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert files(tmp_path / "whole").keys() == {
        *(f"{first}/{name}" for name in OUTPUTS),
        *(f"{other}/.left/{name}" for other in others for name in (*OUTPUTS, "whose.json")),
    }
