"""Jobs of a run on one machine with four pretended GPUs: each sees its own, and the records say which."""

import os
import re

import pytest
from conftest import TINY, Checkout

from crossdiff.provenance.records import read_record

CACHES = "results/activations/tiny-base/layer1/tiny-chat"
NVIDIA_SMI = """#!/bin/bash
[[ "$*" == *index,uuid* ]] || exit 9
for n in 0 1 2 3; do echo "$n, GPU-$n, 81559"; done
"""


@pytest.fixture
def with_gpus(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout that finds four GPUs. torch finds none and computes on the CPU."""
    devices = checkout.folder / "dev"
    devices.mkdir()
    for number in range(4):
        (devices / f"nvidia{number}").touch()
    (devices / "nvidia-smi").write_text(NVIDIA_SMI)
    (devices / "nvidia-smi").chmod(0o755)
    module = checkout.folder / "src/crossdiff/workflow/machine_gpus.py"
    changed, count = re.subn(r'DEVICES = Path\("/dev"\)', f'DEVICES = Path("{devices}")', module.read_text())
    assert count == 1
    module.write_text(changed)
    monkeypatch.setenv("PATH", f"{devices}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return checkout


@pytest.mark.slow
def test_jobs_spread_over_all_gpus(with_gpus: Checkout) -> None:
    shards = [
        f"{CACHES}/{name}.h5" for name in ("readme.train/0000", "requests.train/0000", "requests.train/0001")
    ]
    result = with_gpus.snakemake(*shards, "--cores", "4", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    seen = [read_record(with_gpus.folder / shard).run["cuda_visible_devices"] for shard in shards]
    assert set(seen) <= {"GPU-0", "GPU-1", "GPU-2", "GPU-3"}
    assert len(set(seen)) > 1
    tokens = with_gpus.folder / "results/tokens/tiny-chat/readme.train/0000.parquet"
    assert read_record(tokens).run["cuda_visible_devices"] is None


def test_more_gpus_than_the_machine_has(with_gpus: Checkout) -> None:
    config = with_gpus.changed(TINY, {"gpus.training": 8})
    result = with_gpus.snakemake("--cores", "1", "--configfile", config)
    assert result.returncode == 1
    assert "gpus.training: found 8, allowed on this machine: up to 4" in result.stdout
    assert not (with_gpus.folder / "results/models").exists()
