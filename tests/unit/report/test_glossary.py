"""The glossary: every term is on the page, sentences are short, and links lead to entries."""

import html
import re

import prose
import pytest
from conftest import ROOT

from crossdiff.report.glossary import GLOSSARY, Entry

SECTIONS = sorted((ROOT / "report").glob("*.jinja")) + sorted((ROOT / "report/sections").glob("*.jinja"))
# Captions, findings and marks are written in the library.
WRITERS = sorted((ROOT / "src/crossdiff/report").rglob("*.py"))
KEYS = {entry.key for entry in GLOSSARY}


def shown() -> str:
    """The text of all sections but the glossary, in small letters."""
    files = [path for path in (*SECTIONS, *WRITERS) if "glossary" not in path.name]
    text = " ".join(path.read_text(encoding="utf-8") for path in files)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"</?(sub|code|strong|dfn)>", "", text))).lower()


TEXT = shown()


@pytest.mark.parametrize("entry", GLOSSARY, ids=lambda entry: entry.key)
def test_term_is_on_the_page_and_its_sentence_is_short(entry: Entry) -> None:
    assert entry.term.replace("_", "").lower() in TEXT
    assert prose.sentences(entry.sentence) == [entry.sentence]
    assert prose.long_sentences(iter([entry.sentence])) == []
    assert entry.sentence[0].isupper() and entry.sentence.endswith(".")
    assert re.fullmatch(r"(paper, section|method) [\d.]+|paper|ours|arXiv [\d.]+", entry.source)


def test_terms_are_unique() -> None:
    assert len(KEYS) == len({entry.term for entry in GLOSSARY}) == len(GLOSSARY)


def test_links_lead_to_entries() -> None:
    text = " ".join(path.read_text(encoding="utf-8") for path in SECTIONS)
    found = set(re.findall(r'term\("([\w-]+)"|#term-([\w-]+)"', text))
    found = {key for pair in found for key in pair if key}
    assert len(found) >= 10
    assert found <= KEYS
