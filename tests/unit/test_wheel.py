"""A wheel holds the workflow, and its code has the digests of a checkout."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from helpers_wheel import build, source

from crossdiff.provenance.code import code_parts

SHIPPED = "CITATION.cff Snakefile configs data envs profiles report rules slurm workflow_scripts".split()
INSIDE = "crossdiff/shipped/"
SOME_SCRIPTS = ("prepare_model", "train_crosscoder", "write_report")  # together they use most modules
ASK = """
import json, sys
from crossdiff.provenance.code import ROOT, code_parts
print(json.dumps([str(ROOT), {script: code_parts(script) for script in sys.argv[1:]}]))
"""

WHERE = """
import os
from pathlib import Path
from crossdiff.provenance.code import home
from crossdiff.workflow.launch import start
print(home(Path()))
os.execv = lambda program, words: print(words[words.index("--snakefile") + 1])
start([], [], None)
"""


def tracked(*places: str) -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *places]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_library_and_what_a_run_reads_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {INSIDE + name for name in tracked(*SHIPPED)}
    assert names == expected | {name.removeprefix("src/") for name in tracked("src")}


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 3e6


def test_code_of_a_wheel_has_the_digests_of_a_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    result = subprocess.run(
        [sys.executable, "-c", ASK, *SOME_SCRIPTS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    root, parts = json.loads(result.stdout)
    assert root == str(tmp_path / "site/crossdiff/shipped")
    assert parts == {script: code_parts(script) for script in SOME_SCRIPTS}
    assert "src/crossdiff/errors.py" in parts["write_report"]
    assert "workflow_scripts/write_report.py" in parts["write_report"]


def test_wheel_in_a_checkout_runs_its_own_rules_and_an_editable_install_the_checkouts(
    wheel: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "rules").mkdir(parents=True)
    (checkout / "rules/crosscoders.smk").touch()
    site = checkout / ".venv/lib/python3/site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    for library, expected in ((site, site / INSIDE), (ROOT / "src", Path())):
        result = subprocess.run(
            [sys.executable, "-c", WHERE],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(library)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.splitlines() == [str(expected), str(expected / "Snakefile")]


def test_code_outside_the_library_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "ridge.py").write_text("RIDGE = 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert {"ridge.py", "workflow_scripts/train_crosscoder.py"} <= set(
            code_parts("train_crosscoder", "ridge")
        )
    finally:
        sys.path.remove(str(tmp_path))


def test_sdist_holds_what_a_wheel_is_built_from(tmp_path: Path) -> None:
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    folder = source(tmp_path / "source")
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    [path] = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked(*SHIPPED, "src", "pyproject.toml", "setup.py", "README.md", "LICENSE") <= names
