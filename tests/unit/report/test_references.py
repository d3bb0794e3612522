"""What a run cites: every loss names its source, and BibTeX holds together."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from crossdiff.config.losses import LOSSES
from crossdiff.errors import UserError
from crossdiff.report.references import References, read_references

PAPERS, CITATION = ROOT / "data/references.bib", ROOT / "CITATION.cff"
OURS = [name for name, settings in LOSSES.items() if settings.objective.startswith("crossdiff.")]
LATER = ["dedicated", "designated", "matryoshka", "jumprelu", "delta"]  # each has a paper of its own


@pytest.fixture
def references() -> References:
    return read_references(PAPERS, CITATION)


@pytest.mark.parametrize("loss", OURS)
def test_every_loss_has_an_entry_that_the_bibliography_then_holds(loss: str, references: References) -> None:
    cited = re.fullmatch(r"~\\cite\{(.+)\}", references.cite(f"loss {loss}"))
    assert cited, f"data/references.bib: no entry has the keyword 'loss {loss}'"
    for key in cited[1].split(","):
        assert f"{{{key},\n" in references.bibliography()


@pytest.mark.parametrize("loss", LATER)
def test_paper_of_a_loss_stands_there_only_with_the_loss(loss: str, references: References) -> None:
    before = references.bibliography()
    references.cite(f"loss {loss}")
    assert len(references.bibliography()) > len(before)


def test_every_run_cites_the_method_the_tools_and_crossdiff(references: References) -> None:
    found = re.findall(r"^@\w+\{(\w+),$", references.bibliography(), re.MULTILINE)
    assert sorted(found) == [
        *("ansel2024pytorch", "crossdiff", "minder2025overcoming", "molder2021sustainable"),
        "wolf2020transformers",
    ]
    assert "2504.02922" in references.bibliography() and "keywords" not in references.bibliography()


def test_loss_that_nobody_knows_cites_nothing(references: References) -> None:
    assert references.cite("loss mine") == ""


def test_entries_close_and_have_what_a_reader_looks_for(references: References) -> None:
    text = PAPERS.read_text(encoding="utf-8")
    assert len(references.entries) == len(re.findall("^@", text, re.MULTILINE)) + 1
    for entry in references.entries:
        assert entry.text.count("{") == entry.text.count("}"), entry.key
        assert all(f"  {field} = " in entry.text for field in ("title", "author", "year")), entry.key
    assert len({entry.key for entry in references.entries}) == len(references.entries)


def test_readme_and_bibliography_name_the_paper_alike() -> None:
    readme, papers = ((path).read_text(encoding="utf-8") for path in (ROOT / "README.md", PAPERS))
    for field in ("title", "author"):
        found = [
            re.search(rf"minder2025overcoming,\n.*?{field} = (.*?),\n", text, re.DOTALL)
            for text in (readme, papers)
        ]
        assert found[0] and found[1] and found[0][1] == found[1][1]


def test_entry_that_does_not_say_who_cites_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "papers.bib").write_text("@article{mine,\n  title = {Mine},\n}\n")
    with pytest.raises(UserError, match=r"papers\.bib: mine has no line of keywords, which say who cites it"):
        read_references(tmp_path / "papers.bib", CITATION)
