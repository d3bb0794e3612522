"""A training that is killed at a random moment (kill -9) and started again ends with the same bytes."""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_activations import batchtopk_settings, l1_settings, planted_activations, rule_inputs
from helpers_killed import OUTPUTS, train_counting
from helpers_live import live_pair

pytestmark = pytest.mark.slow
WIDTH, STEPS, KILLS = 8, 120, 12
PRELOAD = [
    "pytest",
    "crossdiff.crosscoders.from_models",
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

    def __init__(self, inputs: dict[str, Any], losses: str, folder: Path, live: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.done = context.RawValue("i", 0)  # no lock: a killed process would never give it back
        orders = [
            (loss, inputs, SETTINGS[loss].model_dump(mode="json"), folder / loss) for loss in losses.split()
        ]
        self.process = context.Process(target=train_counting, args=(orders, self.done, live))
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


@pytest.fixture(scope="module")
def live_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lengths = np.random.default_rng(0).integers(2, 40, (2, 60)).tolist()
    return live_pair(tmp_path_factory.mktemp("models"), lengths).inputs


@pytest.mark.parametrize(
    ("losses", "live"),
    [
        ("l1", False),
        ("batchtopk", False),
        ("l1 batchtopk", False),
        ("batchtopk", True),
        ("l1 batchtopk", True),
    ],
)
def test_training_killed_again_and_again_ends_with_the_same_bytes(
    request: pytest.FixtureRequest, tmp_path: Path, losses: str, live: bool
) -> None:
    """Jobs train from caches or ``live``. Of two crosscoders the checkpoints are of different steps."""
    inputs = request.getfixturevalue("live_inputs" if live else "inputs")
    Job(inputs, losses, tmp_path / "whole", live).finish()
    draw = random.Random(f"{losses} 0")
    steps = sorted(draw.sample(range(1, STEPS - 20), KILLS))
    killed = [
        Job(inputs, losses, tmp_path / "killed", live).kill_after(step, draw.random() * 0.01)
        for step in steps
    ]
    assert sum(killed) == KILLS
    first, *others = losses.split()
    assert not (tmp_path / "killed" / first / "weights.safetensors").exists()
    Job(inputs, losses, tmp_path / "killed", live).finish()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert files(tmp_path / "whole").keys() == {
        *(f"{first}/{name}" for name in OUTPUTS),
        *(f"{other}/.left/{name}" for other in others for name in (*OUTPUTS, "whose.json")),
    }
