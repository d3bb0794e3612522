"""What the workflow scripts import before they begin: starting is most of a short job."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

HEAVY = ("torch", "transformers", "scipy", "sklearn", "pandas", "matplotlib", "h5py", "datasets", "peft")
SCRIPTS = sorted(path.stem for path in (ROOT / "workflow_scripts").glob("*.py"))
PACKAGES = yaml.safe_load((ROOT / "tests/unit/workflow/script_packages.yaml").read_text())
LOADED = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"


def test_every_script_has_its_packages_listed():
    assert sorted(PACKAGES) == SCRIPTS


@pytest.mark.slow  # a second or more each
@pytest.mark.parametrize("script", SCRIPTS)
def test_script_starts_with_no_heavy_package_more_than_listed(script):
    command = [sys.executable, "-c", LOADED, f"workflow_scripts/{script}.py"]
    loaded = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert [package for package in HEAVY if package in loaded] == PACKAGES[script]
