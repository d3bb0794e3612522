"""Shared by all tests: the repository, and Snakemake as a user runs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
# What a run reads: enough to copy a checkout without its results.
TREE = "Snakefile config.yaml configs data envs profiles report rules slurm src tests/data workflow_scripts".split()


class Checkout:
    """A copy of the repository in which Snakemake runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in TREE:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(source, target)

    def changed(self, config: str, changes: dict[str, object]) -> str:
        """A copy of a config file with other values under dotted keys; gives its path."""
        values = yaml.safe_load((self.folder / config).read_text())
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            section = values
            for parent in parents:
                section = section[parent]
            section[leaf] = value
        (self.folder / "configs/changed.yaml").write_text(yaml.safe_dump(values))
        return "configs/changed.yaml"

    def snakemake(self, *arguments: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the library of this copy; standard error is merged into ``stdout``."""
        environment = os.environ | {"PYTHONPATH": str(self.folder / "src"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "snakemake", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, text=True, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


def planned(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table of a dry-run; empty when nothing is to be done."""
    table = re.search(r"^job\s+count\n-.*?\n(.*?)^total", output, re.DOTALL | re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table[1], re.MULTILINE)} if table else {}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")
