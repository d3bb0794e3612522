"""pyproject, lock and conda environment name the same packages."""

import re
import tomllib

import yaml
from conftest import ROOT


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked(lock: str = "lock.txt") -> dict[str, str]:
    lines = (ROOT / "envs" / lock).read_text().splitlines()
    return {
        _normal(name): version
        for name, version in (
            line.split(" ;")[0].split("==") for line in lines if line and not line.startswith("#")
        )
    }


def test_every_requirement_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    required = (
        project["project"]["dependencies"]
        + project["project"]["optional-dependencies"]["test"]
        + project["build-system"]["requires"]
    )
    assert _names(required) <= set(_locked())
    # The site has an environment of its own.
    assert _names(project["project"]["optional-dependencies"]["docs"]) <= set(_locked("docs-lock.txt"))


def _names(requirements: list[str]) -> set[str]:
    return {_normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in requirements}


def test_torch_is_pinned_without_a_local_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", _locked()["torch"])


def test_conda_environment_installs_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs/environment.yaml").read_text())
    assert {"pip": ["-r lock.txt"]} in environment["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "python=" + project["project"]["requires-python"].removeprefix(">=") in environment["dependencies"]
