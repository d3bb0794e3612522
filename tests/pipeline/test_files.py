"""docs/files.md tells of every file that a run writes, and of every column and key."""

import re

import pytest
from conftest import ROOT, Checkout
from files_table import Row, rows, untold


def test_every_file_of_a_run_is_told_with_its_rule_and_columns(finished: Checkout) -> None:
    assert not untold(finished.folder)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.patterns[0])
def test_file_that_is_told_is_made_by_its_rules(row: Row) -> None:
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert row.rules
    assert [rule for rule in row.rules if not re.search(rf"rule {rule}:", text)] == []
