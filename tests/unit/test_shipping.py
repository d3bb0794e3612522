"""Files that other services read: containers, CI, releases and the workflow catalogue."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_containers_install_the_lock_on_the_python_that_it_was_made_on() -> None:
    made_on = re.search(r"CPython (\d+\.\d+)", (ROOT / "envs/lock.txt").read_text())
    assert made_on
    for name, base in (
        ("Dockerfile", r"^FROM python:([\d.]+)-"),
        ("apptainer.def", r"^From: python:([\d.]+)-"),
    ):
        text = (ROOT / name).read_text()
        found = re.search(base, text, re.MULTILINE)
        assert found and found[1] == made_on[1], name
        assert "-r envs/lock.txt" in text and "/crossdiff/Snakefile" in text, name


def test_ci_calls_the_gate() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert any(command.endswith(".ci/run") for command in commands)


def test_release_has_the_wheel_that_the_guide_installs() -> None:
    [job] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    order = [what for line in commands for what in ("pip wheel", "gh release") if what in line]
    assert order == ["pip wheel", "gh release"]
    assert "dist/*.whl" in commands[-1]
    assert f"crossdiff-{PROJECT['version']}-py3-none-any.whl" in (ROOT / "docs/install.md").read_text()


def release_notes(version: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "docs/release_notes.py", version]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_release_notes_are_the_section_of_the_version() -> None:
    found = release_notes(PROJECT["version"])
    assert found.returncode == 0 and found.stdout.startswith("### ")
    assert "\n## " not in found.stdout and found.stdout.strip() in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("version", ["9.9.9", "0"])
def test_release_without_a_section_is_one_line(version: str) -> None:
    found = release_notes(version)
    assert found.returncode == 1 and not found.stdout
    assert found.stderr.startswith(f"{version}: not in the CHANGELOG; allowed: {PROJECT['version']}")


def test_catalogue_entry_says_what_is_there() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert usage["software-stack-deployment"]["conda"] == ("conda:" in rules)
    assert usage["report"] == ("report(" in rules)
