"""When a run dies during its harvest, finished files stay, and the next run makes the rest as usual."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, Checkout

pytestmark = pytest.mark.slow
CACHES = "results/activations"


def found(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Cache -> modification time and content, of those that have their name. A killed job leaves others."""
    paths = sorted(path for path in (folder / CACHES).rglob("*.h5") if not path.name.startswith("."))
    return {
        path.relative_to(folder / CACHES).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
    }


def test_harvest_goes_on_with_the_missing_shards(checkout: Checkout, tmp_path: Path) -> None:
    result = checkout.snakemake("activations", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    whole = found(checkout.folder)
    ours = checkout.copy(tmp_path / "ours")
    for path in (ours.folder / CACHES).rglob("*.h5"):
        path.unlink()
    command = [sys.executable, "-m", "snakemake", "activations", "--cores", "1", "--configfile", TINY]
    environment = os.environ | {"PYTHONPATH": str(ours.folder / "src"), "HF_HUB_OFFLINE": "1"}
    with (ours.folder / "killed.log").open("w") as log:
        run = subprocess.Popen(
            command, cwd=ours.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        while len(found(ours.folder)) < 3 and run.poll() is None:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)  # Snakemake and its job
        run.wait()
    before = found(ours.folder)
    assert 3 <= len(before) < len(whole)
    assert ours.snakemake("--unlock", "--configfile", TINY).returncode == 0
    result = ours.snakemake("activations", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    after = found(ours.folder)
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in whole.items()
    }
    kept = [name for name in before if after[name] == before[name]]
    # Snakemake may not yet have noted that the last one is whole.
    assert len(kept) >= len(before) - 1
