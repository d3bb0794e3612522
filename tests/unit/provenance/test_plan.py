"""The plan's state changes with all that decides which jobs there are. A bad config is one clear line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from crossdiff.errors import UserError
from crossdiff.provenance import planned_jobs as module
from crossdiff.provenance.planned_jobs import PlannedJob, plan, read_config, state

VALUES = {"pair": {"name": "p", "base": {"folder": "model"}}, "crosscoders": {"l1": {"k": 1}}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in (
        ("Snakefile", "a"),
        ("rules/crosscoders.smk", "b"),
        ("model/weights", "c"),
        ("config.yaml", yaml.safe_dump(VALUES)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_state_depends_on_config_rules_and_model_files(root):
    before = state(VALUES, root)
    assert state({key: VALUES[key] for key in reversed(VALUES)}, root) == before
    assert state(VALUES | {"seeds": [1]}, root) != before
    for change in (root / "Snakefile", root / "rules/two.smk", root / "model/new"):
        change.write_text("changed")
        after = state(VALUES, root)
        assert after != before, change
        before = after


def test_state_of_a_config_without_a_pair_is_no_error(root):
    assert state({}, root) != state(VALUES, root)


def test_configs_are_merged_as_snakemake_does(root):
    (root / "more.yaml").write_text("crosscoders: {l1: {tokens: 2}}\nseeds: [1]\n")
    merged = {"pair": VALUES["pair"], "crosscoders": {"l1": {"k": 1, "tokens": 2}}, "seeds": [1]}
    assert read_config([root / "config.yaml", root / "more.yaml"]) == merged


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", None, ""], ids=["list", "not YAML", "missing", "empty"])
def test_config_that_cannot_be_read_is_one_line(root, text):
    path = root / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: (can't be read|not valid YAML)[^\n]*$"):
        plan(root, [Path("config.yaml")])


def test_plan_of_the_present_state_is_read_without_snakemake(root, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    (root / module.PLAN).parent.mkdir(parents=True)
    (root / module.PLAN).write_text(state(VALUES, root) + '\n{"out": ["rule", {"code": "x"}, ["in"], []]}')
    assert plan(root, [Path("config.yaml")]) == {"out": PlannedJob("rule", {"code": "x"}, ["in"], [])}


@pytest.mark.parametrize(
    "printed",
    [
        ("", "Using profile x\n\nWorkflowError:\nconfig: l1: unknown key\nmore\n"),
        ('WorkflowError in file "rules/common.smk", line 1:\nWorkflowError: config: l1: unknown key\n', ""),
    ],
)
def test_plan_of_another_state_is_made_anew_or_refused(root, monkeypatch, printed):
    (root / module.PLAN).parent.mkdir(parents=True)
    (root / module.PLAN).write_text("old\n{}")
    said = subprocess.CompletedProcess([], 1, *printed)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    with pytest.raises(
        UserError, match=r"Snakemake can't plan this run \(WorkflowError: config: l1: unknown key\)"
    ):
        plan(root, [Path("config.yaml")])


def test_fresh_plan_asks_snakemake_though_nothing_has_changed(root, monkeypatch):
    (root / module.PLAN).parent.mkdir(parents=True)

    def snakemake(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        assert not (root / module.PLAN).exists()  # Snakemake would leave it alone
        (root / module.PLAN).write_text(state(VALUES, root) + '\n{"new": ["rule", {}, [], []]}')
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", snakemake)
    (root / module.PLAN).write_text(state(VALUES, root) + '\n{"old": ["rule", {}, [], []]}')
    assert list(plan(root, [Path("config.yaml")])) == ["old"]
    assert list(plan(root, [Path("config.yaml")], fresh=True)) == ["new"]


def test_no_workflow_is_one_line(root):
    (root / "rules/crosscoders.smk").unlink()
    with pytest.raises(UserError, match="no Snakefile here"):
        plan(root, [Path("config.yaml")])


@pytest.mark.parametrize("name", ["provenance.planned_jobs", "provenance.trust", "cli"])
def test_it_starts_without_heavy_libraries(name):
    heavy = {"torch", "transformers", "pandas", "pyarrow", "h5py", "matplotlib", "snakemake", "rocrate"}
    command = [sys.executable, "-c", f"import sys, crossdiff.{name}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert f"crossdiff.{name}" in loaded
    assert not heavy & set(loaded)
