"""``make bench-gpu`` runs all of its sections on a CPU in tiny shapes, and handles their numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import gpu

    return gpu


@pytest.fixture
def card_record(gpu: ModuleType) -> ModuleType:
    import card_record

    return card_record


def test_every_section_runs_on_a_cpu_in_tiny_shapes(gpu: ModuleType, tmp_path: Path) -> None:
    rows = gpu.ROWS
    sections = ["card", "step", "harvest", "data", "scaling", "pipeline"]
    command = [sys.executable, "benchmarks/gpu.py", "--smoke", "--json", str(tmp_path / "found.json")]
    before = set((ROOT / "data").rglob("*"))
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": paths}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == sections
    assert min(found["step"].values()) > 0
    assert {row.key for row in rows if row.section == "step"} - {
        "peak GB",
        "authors / ours",
        "authors TF32 / ours",
    } <= set(found["step"])
    for section in ("harvest", "data", "scaling"):
        assert {row.key for row in rows if row.section == section} <= set(found[section])
    assert set((ROOT / "data").rglob("*")) == before


def test_section_that_fails_or_hangs_is_named_and_others_run(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("print('[{\"value\": 1.5}]')")
    (tmp_path / "bad.py").write_text("raise ValueError('no such kernel')")
    (tmp_path / "slow.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    sections = {
        name: gpu.Section(f"{name}.py", 10.0 if name != "slow" else 1.0, "", "")
        for name in ("bad", "slow", "good")
    }
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    found = gpu.all_sections(list(sections), smoke=True, authors=None)
    assert found == {
        "bad": {"failed": "exit code 1: ValueError: no such kernel"},
        "slow": {"failed": "took longer than 1 s; its last words: begun"},
        "good": {"value": 1.5},
    }


def test_table_names_bounds_that_are_not_kept(gpu: ModuleType) -> None:
    lines = gpu.table(
        {
            "step": {"dense bfloat16 / ours": 2.4, "peak GB": 11.0, "l1 ms": 12.0},
            "data": {"failed": "no disk"},
        }
    )
    told = {line[:42].strip(): line[42:].split() for line in lines}
    assert told["step: dense bfloat16 / ours"] == ["2.4", ">=", "2.5", "4", "NOT", "KEPT"]
    assert told["step: peak GB"] == ["11", "<=", "12", "9.5"]
    assert told["data: shuffled pairs/s"][0] == "-"
    assert told["step: l1 ms"] == ["12"]
    assert "data: failed: no disk" in lines


def test_record_holds_what_was_measured_in_its_units(gpu: ModuleType) -> None:
    found = gpu.record(
        {
            "card": {"product": {"value": 7e14, "of": "a product"}, "copy": {"value": 4e12, "of": "a copy"}},
            "step": {"batchtopk ms": 10.8, "batchtopk, dead latents ms": 12.0, "l1 ms": 12.1},
            "harvest": {"failed": "no model"},
            "data": {"training with data / step alone": 0.95},
            "scaling": {"encode s": 2.0, "ours / encode": 1.7},
        }
    )
    measured = {key: entry["value"] for key, entry in found["measured"].items()}
    assert measured == {
        "product": 7e14,
        "copy": 4e12,
        "training": 0.95,
        "encode": pytest.approx(2 * 2 * 2304 * 73_728 * gpu.SCALED_TOKENS / 2),
        "scaling": 1.7,
    }
    steps = [(step["loss"], step.get("dead"), step["seconds"]) for step in found["steps"]]
    assert steps == [("batchtopk", None, 0.0108), ("batchtopk", 0.1, 0.012), ("l1", None, 0.0121)]
    assert (found["format"], found["card"], found["architecture"]) == (1, "cpu", "cpu")


def test_record_of_a_card_keeps_what_the_other_target_wrote(card_record: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "cards/h100.json"
    tests = card_record.outcomes_record(
        {"tests/unit/crosscoders/test_kernels.py::test_a": "passed", "tests/gpu/test_models.py::b": "failed"}
    )
    assert tests["kernels"].items() >= {"tests": 1, "failed": 0}.items()
    assert tests["gpu_tests"]["failed"] == ["tests/gpu/test_models.py::b"]
    card_record.write_record({"card": "c", "measured": {"copy": {"value": 2.0}}} | tests, path)
    card_record.write_record(
        {"card": "c", "measured": {"product": {"value": 3.0}}, "steps": [{"loss": "l1"}]}, path
    )
    found = json.loads(path.read_text())
    assert found["kernels"] == tests["kernels"]
    assert found["measured"] == {"copy": {"value": 2.0}, "product": {"value": 3.0}}
    assert found["steps"] == [{"loss": "l1"}]


def test_no_kernel_test_is_no_proof(card_record: ModuleType) -> None:
    assert card_record.outcomes_record({"tests/gpu/test_models.py::b": "passed"})["kernels"] is None


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
    ],
)
def test_names_of_records(card_record: ModuleType, device: str, name: str) -> None:
    assert card_record.card_name(device) == name
