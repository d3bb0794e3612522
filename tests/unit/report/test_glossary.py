"""The glossary: every term is on the page, sentences are short, and links lead to entries."""

import html
import re

import prose
import pytest
from conftest import ROOT

from crossdiff.report.first_look import TERMS
from crossdiff.report.glossary import GLOSSARY, Entry

SECTIONS = sorted((ROOT / "report").glob("*.jinja")) + sorted((ROOT / "report/sections").glob("*.jinja"))
# Captions, findings and marks are written in the library.
WRITERS = sorted((ROOT / "src/crossdiff/report").rglob("*.py"))
# Terms that a newcomer to the field would look up.
FIELD = {
    *("95 % interval", "FVE", "KL", "L0", "ablated", "activation", "answer token", "base model", "base-only"),
    *("chat model", "chat-only", "complete shrinkage", "confirmed", "context", "controls", "crosscoder"),
    *("dead", "decoder", "detection score", "dictionary learning", "feature", "found again", "group", "head"),
    *(
        "held-out",
        "k",
        "latent",
        "latent decoupling",
        "latent scaling",
        "layer",
        "logit lens",
        "loss",
        "nats",
    ),
    *("norm difference", "outlier", "patched run", "pattern", "perplexity", "promoted", "seed", "shared"),
    *("steered", "template token", "topic", "twins", "\u03b2", "\u03bd_error", "\u03bd_reconstruction"),
}
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


def test_terms_of_the_first_look_have_entries() -> None:
    assert TERMS <= KEYS


def test_terms_of_the_field_that_stand_on_the_page_are_explained() -> None:
    used = {term for term in FIELD if term.lower() in TEXT}
    assert len(used) > 40
    assert used <= {entry.term for entry in GLOSSARY}


def test_terms_are_unique() -> None:
    assert len(KEYS) == len({entry.term for entry in GLOSSARY}) == len(GLOSSARY)


def test_links_lead_to_entries() -> None:
    text = " ".join(path.read_text(encoding="utf-8") for path in SECTIONS)
    found = set(re.findall(r'term\("([\w-]+)"|#term-([\w-]+)"', text))
    found = {key for pair in found for key in pair if key}
    assert len(found) >= 10
    assert found <= KEYS
