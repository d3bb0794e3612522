"""A crosscoder is added to a finished run without caches, and the run is killed while it harvests again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, Checkout, planned

pytestmark = pytest.mark.slow
CACHES = "results/activations"
OLD = ("weights.safetensors", "scaling.parquet", "reconstruction.json", "betas.parquet", "examples.parquet")


def caches(checkout: Checkout) -> list[Path]:
    return [path for path in (checkout.folder / CACHES).rglob("*.h5") if not path.name.startswith(".")]


def run(checkout: Checkout, *arguments: str) -> str:
    result = checkout.snakemake(*arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout


def times(checkout: Checkout) -> dict[Path, int]:
    """Result of an old crosscoder -> when it was made."""
    pair = checkout.folder / "results/tiny/layer1"
    old = [path for name in ("batchtopk", "l1") for file in OLD for path in pair.glob(f"{name}/seed*/{file}")]
    return {path: path.stat().st_mtime_ns for path in [pair / "summary.json", *old]}


def test_crosscoder_is_added_by_a_run_that_is_killed(ours: Checkout) -> None:
    whole = len(caches(ours))
    run(ours, "--configfile", ours.changed(TINY, {"activations.keep": False}, "keepless"))
    assert not caches(ours)
    more = {"loss": "l1", "latents": 64, "batch": 256, "tokens": 25600, "l1_coefficient": 0.05}
    config = ours.changed(TINY, {"activations.keep": False, "crosscoders.small": more}, "more")
    before = times(ours)
    assert len(before) == 1 + 2 * 2 * len(OLD)

    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", config]
    environment = os.environ | {"PYTHONPATH": str(ours.folder / "src"), "HF_HUB_OFFLINE": "1"}
    with (ours.folder / "killed.log").open("w") as log:
        killed = subprocess.Popen(
            command, cwd=ours.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        while len(caches(ours)) < 3 and killed.poll() is None:
            time.sleep(0.05)
        os.killpg(killed.pid, signal.SIGKILL)  # Snakemake and its job
        killed.wait()
    kept = set(caches(ours))
    assert 3 <= len(kept) < whole
    run(ours, "--unlock", "--configfile", config)

    # Jobs that read the caches are still to run, so they stay.
    printed = run(ours, "--until", "train_crosscoder", "--configfile", config)
    assert planned(printed)["train_crosscoder"] == 2
    assert kept < set(caches(ours))
    assert sum(".train" in path.parent.name for path in caches(ours)) == 6  # shards, models
    left = whole - len(caches(ours))

    printed = run(ours, "--configfile", config)
    rules = planned(printed)
    assert rules["scale_latents"] == rules["measure_reconstruction"] == 2
    assert rules.get("harvest_activations", 0) == left
    assert not rules.keys() & {"train_crosscoder", "summarise_activations"}
    assert not caches(ours)
    assert times(ours) == before
    audit = ours.crossdiff("audit", "--all", "--configfile", config)
    assert audit.returncode == 0, audit.stdout
    assert f"{whole} removed as configured" in audit.stdout.splitlines()[-1]
    assert "Nothing to be done" in run(ours, "--configfile", config)
