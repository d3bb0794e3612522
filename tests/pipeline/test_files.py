"""Every file that a run writes is described, and so is every column and key."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, Checkout
from files_table import untold

from crossdiff.results.described import files

CROSSCODERS = {"batchtopk", "l1"}
RULES = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))


def test_every_file_of_a_run_is_described_with_its_rule_and_columns(finished: Checkout) -> None:
    assert not untold(finished.folder, CROSSCODERS)


TABLE = "results/tiny/layer1/tables/density.csv"


@pytest.fixture
def one_table(finished: Checkout, tmp_path: Path) -> Path:
    """A folder with one table of the run and its record."""
    (tmp_path / TABLE).parent.mkdir(parents=True)
    for name in (TABLE, f"{TABLE}.record.json"):
        shutil.copy2(finished.folder / name, tmp_path / name)
    return tmp_path


def test_column_that_nobody_described_is_found(one_table: Path) -> None:
    table = pd.read_csv(one_table / TABLE)
    table.assign(surprise=1).drop(columns="median").to_csv(one_table / TABLE, index=False)
    assert untold(one_table, CROSSCODERS) == [
        "results/tiny/layer1/tables/density.csv: median is described, and not there",
        "results/tiny/layer1/tables/density.csv: surprise is not described",
    ]


def test_file_that_nobody_described_is_found(one_table: Path) -> None:
    for name in ("", ".record.json"):
        shutil.move(one_table / f"{TABLE}{name}", one_table / f"results/tiny/new.csv{name}")
    [line] = untold(one_table, CROSSCODERS)
    assert line.startswith("results/tiny/new.csv: not a file that a run writes")


@pytest.mark.parametrize("rule", sorted({rule for file in files() for rule in file.rules}))
def test_rule_that_is_described_is_there(rule: str) -> None:
    assert re.search(rf"^ *rule {rule}:", RULES, re.MULTILINE)


@pytest.mark.parametrize("rule", sorted(path.stem for path in (ROOT / "workflow_scripts").glob("*.py")))
def test_every_rule_with_a_script_makes_something_that_is_described(rule: str) -> None:
    assert any(rule in file.rules for file in files())
