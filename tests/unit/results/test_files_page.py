"""docs/files.md is what the descriptions say, and its lines are not too long."""

import pytest
from conftest import ROOT

from crossdiff.results import reference
from crossdiff.results.described import files

PAGE = reference.markdown()


def test_page_is_as_it_is_made() -> None:
    written = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    assert written == PAGE, "make it again: make reference"


def test_lines_are_not_too_long() -> None:
    assert max(len(line) for line in PAGE.splitlines() if not line.startswith("#")) <= 120


def test_tables_are_whole() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 5}
    assert "| `nu_{target}` | ratio | Base beta over chat beta" in PAGE
    assert "Sum of scaled activations (with the keys of `l1`) | method.md 5 |" in PAGE


def test_what_stands_elsewhere_is_referred_to() -> None:
    said = " ".join(PAGE.split())
    assert "It has `crosscoder`, `seed` ([shared](#columns)) and all columns of" in said
    assert (
        "of `evaluation.json` without `classes`, `limits`." in said
        or "seed{seed}/evaluation.json` without `classes`, `limits`." in said
    )
    assert (
        "It has `latent`, `relative_norm_difference`, `does_not_apply`, `confirmed_95` of `betas.parquet`."
        in said
    )


@pytest.mark.parametrize("file", files(), ids=lambda file: file.patterns[0])
def test_every_file_has_its_heading(file) -> None:
    name = file.patterns[0].split("/")[-1] or file.patterns[0].split("/")[-2]
    assert any(line.startswith("### ") and name in line for line in PAGE.splitlines())
