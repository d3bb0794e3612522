"""Digests of code: what they cover, and what does not count."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from crossdiff.provenance import code

SCRIPTS = sorted(path.stem for path in (ROOT / "workflow_scripts").glob("*.py"))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of library and scripts that may be edited."""
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    shutil.copytree(
        ROOT / "workflow_scripts", tmp_path / "workflow_scripts", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "LIBRARY", tmp_path / "src" / "crossdiff")
    monkeypatch.setattr(code, "SCRIPTS", tmp_path / "workflow_scripts")
    yield tmp_path
    forget()


def forget() -> None:
    """Empty the caches: one Snakemake run sees one state of the code."""
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def digest(script: str) -> str:
    forget()
    return code.code_digest(script)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_comments_docstrings_and_formatting_do_not_count(tree):
    before = digest("tokenise")
    path = tree / "src/crossdiff/provenance/storage.py"
    edit(path, '"""Files that are', '"""A new docstring about files that are')
    edit(path, '    """Write a table as CSV with six significant digits."""\n', "")
    edit(path, "import json\n", "import json  # a comment\n\n\n")
    edit(
        path,
        "(temporary, index=False, compression=",
        "(\n        temporary,\n        index=False,\n        compression=",
    )
    assert digest("tokenise") == before


def test_modification_times_do_not_count(tree):
    before = digest("tokenise")
    (tree / "src/crossdiff/provenance/storage.py").touch()
    assert digest("tokenise") == before


def test_edit_of_the_script_counts(tree):
    before = digest("tokenise")
    path = tree / "workflow_scripts/tokenise.py"
    path.write_text(path.read_text() + "\nprint(1)\n")
    assert digest("tokenise") != before


def test_edit_of_an_indirectly_imported_module_counts(tree):
    """tokenise imports texts.shards, which imports texts.chats."""
    assert "texts.chats" not in (tree / "workflow_scripts/tokenise.py").read_text()
    before = digest("tokenise")
    edit(
        tree / "src/crossdiff/texts/chats.py",
        "CONTENT, HEADER, TURN_END = 0, 1, 2",
        "CONTENT, HEADER, TURN_END = 0, 2, 1",
    )
    assert digest("tokenise") != before


def test_edit_of_a_package_above_an_imported_module_counts(tree):
    before = digest("tokenise")
    (tree / "src/crossdiff/texts/__init__.py").write_text("import re\n")
    assert digest("tokenise") != before


def test_edit_of_a_text_that_is_no_docstring_counts(tree):
    before = digest("tokenise")
    edit(tree / "src/crossdiff/texts/formats.py", '"messages"', '"message"')
    assert digest("tokenise") != before


def test_edit_of_a_module_that_the_script_does_not_import_does_not_count(tree):
    before = digest("tokenise")
    path = tree / "src/crossdiff/crosscoders/trainer.py"
    path.write_text(path.read_text() + "\nx = 1\n")
    assert digest("tokenise") == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_digest_over_itself_and_the_library(script):
    files = code.code_files(script)
    assert ROOT / "workflow_scripts" / f"{script}.py" in files
    assert ROOT / "src/crossdiff/workflow/job.py" in files
    assert len(code.code_digest(script)) == 16


ROOMS = yaml.safe_load((ROOT / "tests/unit/provenance/script_rooms.yaml").read_text())


def test_every_script_has_its_rooms_listed():
    assert sorted(ROOMS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_digest_covers_no_room_that_the_script_does_not_run(script):
    inside = [
        path.relative_to(code.LIBRARY)
        for path in code.code_files(script)
        if path.is_relative_to(code.LIBRARY)
    ]
    rooms = {path.parts[0] for path in inside if len(path.parts) > 1}
    assert sorted(rooms - {"config", "provenance", "workflow"}) == ROOMS[script]


def test_what_a_package_offers_lazily_does_not_count(tree):
    before = code.code_files("tokenise")
    path = tree / "src/crossdiff/__init__.py"
    path.write_text(
        path.read_text()
        + "\ndef __getattr__(name):\n    from crossdiff.crosscoders import trainer\n    return trainer\n"
    )
    forget()
    files = {file.name for file in code.code_files("tokenise")}
    assert "trainer.py" not in files
    assert files == {file.name for file in before}


def test_what_only_a_type_checker_reads_does_not_count(tree):
    path = tree / "src/crossdiff/texts/splits.py"
    edit(
        path,
        "import hashlib\n",
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from crossdiff.crosscoders import trainer\n",
    )
    forget()
    assert "trainer.py" not in {file.name for file in code.code_files("tokenise")}


def test_nothing_inside_comes_through_the_front_of_the_library():
    """A digest does not follow what crossdiff/__init__.py offers, so library and scripts may not use it."""
    rooms = {path.stem for path in code.LIBRARY.iterdir()}
    for path in [*code.LIBRARY.rglob("*.py"), *code.SCRIPTS.glob("*.py")]:
        for names in re.findall(r"^\s*from crossdiff import (.+)", path.read_text(), re.MULTILINE):
            assert {name.strip() for name in names.split(",")} <= rooms, path


def test_the_front_of_the_library_imports_nothing():
    loaded = in_fresh_python("import crossdiff", "print(*sys.modules)")
    assert [name for name in loaded if name.split(".")[0] == "crossdiff"] == ["crossdiff"]


def test_scripts_have_different_digests():
    assert len({code.code_digest(script) for script in SCRIPTS}) == len(SCRIPTS)


def test_code_files_hold_every_module_that_the_script_loads():
    loaded = in_fresh_python(
        "import runpy; runpy.run_path('workflow_scripts/fetch_package.py')",
        "ours = [module for name, module in sys.modules.items() if name.split('.')[0] == 'crossdiff']",
        "print(*[module.__file__ for module in ours])",
    )
    assert {Path(path) for path in loaded} == set(code.code_files("fetch_package")) - {
        ROOT / "workflow_scripts/fetch_package.py"
    }


def test_snakefile_part_starts_without_torch_transformers_and_pandas():
    loaded = in_fresh_python(
        "import crossdiff.workflow.run, crossdiff.provenance.code", "print(*sys.modules)"
    )
    assert "crossdiff.workflow.run" in loaded
    assert not {"torch", "transformers", "pandas", "pyarrow"} & set(loaded)


def in_fresh_python(*lines: str) -> list[str]:
    """The words that the lines print."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *lines])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
