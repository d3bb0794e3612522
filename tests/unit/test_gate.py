"""The gate that CI calls can be called."""

import os

from conftest import ROOT

GATE = ROOT / ".ci/run"


def test_gate_can_be_executed_and_names_its_shell() -> None:
    assert os.access(GATE, os.X_OK)
    assert GATE.read_text().splitlines()[0] == "#!/usr/bin/env bash"


def test_marks_of_slow_tests_are_found_by_their_word() -> None:
    """make test-slow reads the files with the word "slow": a helper's mark must have it in its name."""
    marks = [
        line
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if not path.name.startswith("test_")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "mark.slow" in line
    ]
    assert marks and all("slow" in line.partition("=")[0].lower() for line in marks)
