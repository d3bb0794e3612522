"""``train_together`` in real runs: the same bytes, one failure apart, nothing planned by the switch."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Checkout, planned

TRAININGS = [f"{crosscoder}/seed{seed}" for crosscoder in ("batchtopk", "l1") for seed in (0, 1)]
FILES = ("weights.safetensors", "config.json", "training.csv")
TAKEN = "the job of another crosscoder has trained this one"


def results(checkout: Checkout) -> dict[str, bytes]:
    folder = checkout.folder / "results/tiny/layer1"
    paths = [f"{training}/{file}" for training in TRAININGS for file in FILES]
    return {path: (folder / path).read_bytes() for path in paths if (folder / path).exists()}


def logs(checkout: Checkout, training: str) -> str:
    return (checkout.folder / "logs/tiny/layer1" / training / "train_crosscoder.log").read_text()


def without_trainings(checkout: Checkout) -> None:
    for training in TRAININGS:
        shutil.rmtree(checkout.folder / "results/tiny/layer1" / training)


def test_jobs_take_what_the_first_has_trained(ours: Checkout) -> None:
    before = results(ours)
    without_trainings(ours)
    config = ours.changed(TINY, {"train_together": True}, "together")
    result = ours.snakemake("crosscoders", "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert results(ours) == before
    found = {training: logs(ours, training) for training in TRAININGS}
    assert sorted(TAKEN in log for log in found.values()) == [False, True, True, True]
    [trained] = [log for log in found.values() if TAKEN not in log]
    told = re.search("trained together: (.*)", trained)
    assert told and sorted(told[1].split(", ")) == [name.replace("/seed", " seed ") for name in TRAININGS]
    assert not list((ours.folder / "results").rglob(".left"))
    audit = ours.crossdiff("audit", f"results/tiny/layer1/{TRAININGS[3]}/weights.safetensors")
    assert audit.returncode == 0, audit.stdout


def test_switching_it_or_adding_a_crosscoder_runs_no_training_again(finished: Checkout) -> None:
    config = finished.changed(TINY, {"train_together": True}, "together")
    result = finished.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 0 and planned(result.stdout) == {}, result.stdout
    values = yaml.safe_load((finished.folder / TINY).read_text())["crosscoders"]
    more = {"train_together": True, "crosscoders": values | {"another": values["l1"]}}
    arguments = ("crosscoders", "--dry-run", "--configfile", finished.changed(TINY, more, "more"))
    assert planned(finished.snakemake(*arguments).stdout) == {"crosscoders": 1, "train_crosscoder": 2}


def test_one_that_fails_does_not_take_the_others_with_it(ours: Checkout) -> None:
    before = results(ours)
    without_trainings(ours)
    values = yaml.safe_load((ours.folder / TINY).read_text())["crosscoders"]
    broken = values["l1"] | {"learning_rate": 1e30}
    changes = {"train_together": True, "crosscoders": values | {"broken": broken}}
    config = ours.changed(TINY, changes, "broken")
    result = ours.snakemake("crosscoders", "--keep-going", "--configfile", config)
    assert result.returncode == 1
    assert results(ours) == before
    for seed in (0, 1):
        assert not (ours.folder / f"results/tiny/layer1/broken/seed{seed}/weights.safetensors").exists()
        last = logs(ours, f"broken/seed{seed}").splitlines()[-1]
        assert re.search(r"error: training: the loss is nan at step \d+; lower learning_rate$", last), last


@pytest.mark.slow
def test_killed_run_goes_on(ours: Checkout, tmp_path: Path) -> None:
    """Kill Snakemake and its job with -9 while it trains, and start the run again."""
    longer = {f"crosscoders.{name}.tokens": 256 * 2000 for name in ("batchtopk", "l1")}
    alone = ours.copy(tmp_path / "alone")
    for checkout, together in ((alone, False), (ours, True)):
        checkout.changed(TINY, longer | {"train_together": together}, "longer")
    command = [sys.executable, "-m", "snakemake", "crosscoders", "--configfile", "configs/longer.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ours.folder / "src"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.Popen(command, cwd=ours.folder, env=environment, start_new_session=True)
    folder = ours.folder / "results/tiny/layer1"
    while run.poll() is None and not any(
        len(path.read_text().splitlines()) > 20 for path in folder.glob("*/seed*/.left/training.csv")
    ):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert ours.snakemake("--unlock", "--configfile", "configs/longer.yaml").returncode == 0
    for checkout in (alone, ours):
        result = checkout.snakemake("crosscoders", "--configfile", "configs/longer.yaml")
        assert result.returncode == 0, result.stdout
    assert len(results(ours)) == len(TRAININGS) * len(FILES)
    assert results(ours) == results(alone)
