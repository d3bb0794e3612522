"""Commands as users type them, in folders as they have them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from conftest import ROOT, TINY, Checkout, planned
from helpers_chain import FIGURE, jobs, root  # noqa: F401

from crossdiff.cli import main
from crossdiff.workflow import commands
from crossdiff.workflow.shipped import find_shipped, shipped

# Commands that are printed.


def test_printed_command_of_a_checkout_has_its_target_before_the_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(commands.run([Path("my runs/a.yaml"), Path("b.yaml")], "results/x"))
    assert words[1:] == ["results/x", "--configfile", "my runs/a.yaml", "b.yaml"]


def test_no_page_or_message_puts_a_target_behind_the_config():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = [
        ROOT / name for name in files.splitlines() if name.endswith((".md", ".py", ".smk", ".yaml", "file"))
    ]
    behind = re.compile(r"snakemake[^\n`]* --configfile \S+\.yaml (?!-)[a-z]")
    found = [
        f"{path}: {part}" for path in texts for part in behind.findall(path.read_text("utf-8", "replace"))
    ]
    assert found == []
    assert behind.search(" ".join(["snakemake", "--configfile mine.yaml", "activations"]))


def test_closed_pipe_is_quiet(root: Path):  # noqa: F811
    program = (
        f"{shlex.quote(sys.executable)} -c 'from crossdiff.cli import main; main()' audit {FIGURE} | head -1"
    )
    result = subprocess.run(program, shell=True, cwd=root, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{FIGURE}  by figure_planted")


def test_folder_with_an_empty_results_folder_has_nothing_to_audit(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--all"]) == 2
    assert "results: no results here" in capsys.readouterr().err


# Other folders.


def test_shipped_files_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("data/paper.yaml") == ROOT / "data/paper.yaml"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/paper.yaml").write_text("")
    assert shipped("data/paper.yaml") == Path("data/paper.yaml")


def test_paths_of_a_config_are_those_here_before_those_next_to_the_snakefile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    elsewhere = os.path.relpath(ROOT / "data/plain.jinja")
    values = {
        "pair": {"name": "data", "chat": {"finetune": {"chat_template": "data/plain.jinja"}}},
        "datasets": {"requests": {"files": ["mine.jsonl", "data/plain.jinja", "gone.txt"]}},
        "catalogue": None,
    }
    find_shipped(values, ROOT)
    assert values["pair"] == {"name": "data", "chat": {"finetune": {"chat_template": elsewhere}}}
    assert values["datasets"]["requests"]["files"] == ["mine.jsonl", elsewhere, "gone.txt"]


def test_run_of_tokens_in_a_folder_with_blanks_and_other_letters(checkout: Checkout, tmp_path: Path):
    """The Snakefile lies elsewhere; folder, config and text have names that a shell would take apart."""
    here = Checkout(checkout.folder)
    here.folder = tmp_path / "mein L\xe4ufe (2)"
    (here.folder / "\u0442\u0435\u043a\u0441\u0442").mkdir(parents=True)
    text = "\u0442\u0435\u043a\u0441\u0442/my doc's 1.jsonl"
    (here.folder / text).write_text("\n".join(json.dumps({"text": f"Text {n}. " * 20}) for n in range(40)))
    values = yaml.safe_load((ROOT / TINY).read_text())
    values["datasets"]["readme"] |= {"files": [text], "tokens": 500, "validation_tokens": 50}
    (here.folder / "mein Lauf.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    shard = "results/tokens/tiny-chat/readme.train/0000.parquet"
    environment = {"PYTHONPATH": str(checkout.folder / "src")}
    places = (
        "-s",
        str(checkout.folder / "Snakefile"),
        "-d",
        str(here.folder),
        "--configfile",
        "mein Lauf.yaml",
    )
    dry = here.run("-m", "snakemake", "-n", *places, **environment)
    assert dry.returncode == 0, dry.stdout
    assert planned(dry.stdout)["write_report"] == 1
    result = here.run("-m", "snakemake", shard, *places, **environment)
    assert result.returncode == 0, result.stdout
    assert len(pd.read_parquet(here.folder / shard)) == 500
    audited = here.run("-c", "from crossdiff.cli import main; main()", "audit", shard, **environment)
    assert "All 5 files verified" in audited.stdout, audited.stdout
