"""The gate that CI calls can be called."""

import os

from conftest import ROOT

GATE = ROOT / ".ci/run"


def test_gate_can_be_executed_and_names_its_shell() -> None:
    assert os.access(GATE, os.X_OK)
    assert GATE.read_text().splitlines()[0] == "#!/usr/bin/env bash"
