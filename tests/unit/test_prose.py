"""Prose stays easy to read: short lines and short sentences in Markdown and in public docstrings."""

import re
from pathlib import Path

import prose
import pytest
from conftest import ROOT

LIBRARY = ROOT / "src/crossdiff"
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    path
    for path in sorted((ROOT / "report").rglob("*"))
    if path.suffix in {".jinja", ".js", ".css"} and ROOT / "report/vendor" not in path.parents
]
MODULES = sorted(LIBRARY.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_lines_of_documents_are_short(path: Path) -> None:
    assert prose.long_lines(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sentences_of_documents_are_short(path: Path) -> None:
    paragraphs = prose.markdown_paragraphs(path.read_text(encoding="utf-8"))
    assert prose.long_sentences(paragraphs) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_lines_of_the_report_are_short(path: Path) -> None:
    assert prose.long_lines_of_page(path.read_text(encoding="utf-8")) == []


def test_readme_has_at_most_100_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_package_of_the_default_run_has_its_licence() -> None:
    packages = re.findall(r"package:\n +name: (\S+)", (ROOT / "config.yaml").read_text(encoding="utf-8"))
    rows = (ROOT / "data/README.md").read_text(encoding="utf-8").splitlines()
    licences = {
        row.split("|")[1].strip(" `"): row.split("|")[3].strip() for row in rows if row.count("|") == 4
    }
    assert len(packages) == 3 and all(licences[package] for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sentences_of_public_docstrings_are_short(path: Path) -> None:
    found = [
        f"{name}: {sentence}"
        for name, text in prose.docstrings(path)
        for sentence in prose.long_sentences(prose.docstring_paragraphs(text))
    ]
    assert found == []


# The rules themselves.

LONG = " ".join(["word"] * 36)
LINKS = {
    "a link": f"[text](https://example.org/{'a' * 120})",
    "an image": f"![picture](docs/{'a' * 120}.png)",
    "a badge": f"[![state](https://example.org/{'a' * 60})](https://example.org/{'b' * 60})",
    "an item": f"- [text](https://example.org/{'a' * 120})",
}


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("One. Two! Three? Four: five.", ["One.", "Two!", "Three?", "Four:", "five."]),
        ("No end", ["No end"]),
        ("Pairs, e.g. Gemma, i.e. two. Done.", ["Pairs, e.g. Gemma, i.e. two.", "Done."]),
        ("Minder et al. (2025), Fig. 3, Eq. 4. Next.", ["Minder et al. (2025), Fig. 3, Eq. 4.", "Next."]),
        ("It is 0.5 of 1.2.3. Next.", ["It is 0.5 of 1.2.3.", "Next."]),
        ('He said "no." Then he (really.) left.', ['He said "no."', "Then he (really.)", "left."]),
        ("**Bold.** Plain.", ["**Bold.**", "Plain."]),
        ("In layer 3. Next.", ["In layer 3.", "Next."]),
    ],
)
def test_paragraphs_split_into_sentences(paragraph: str, expected: list[str]) -> None:
    assert prose.sentences(paragraph) == expected


def test_code_is_one_word_and_never_ends_a_sentence() -> None:
    [sentence] = prose.sentences("Run `snakemake --cores 2. now` - then ``a b`` wait.")
    assert prose.words(sentence) == 5


def test_sentence_of_36_words_is_found_and_of_35_is_not() -> None:
    assert prose.long_sentences(iter([f"Short. {LONG}."])) == [f"36 words: {LONG}."]
    assert prose.long_sentences(iter([f"Short. {LONG.removesuffix(' word')}."])) == []


def test_paragraphs_of_markdown_leave_out_what_is_no_prose() -> None:
    lists = "- item\n  goes on\n1. next\n"
    text = f"# {LONG}\nOne [name](target)\ntwo.\n\n| {LONG} |\n{lists}```\n{LONG}\n```\nEnd\n"
    assert list(prose.markdown_paragraphs(text)) == ["One name two.", "item goes on", "next", "End"]
    assert prose.long_sentences(prose.markdown_paragraphs(f"- {LONG}\n")) == [f"36 words: {LONG}"]


def test_paragraphs_of_docstrings_leave_out_indented_code() -> None:
    text = f"One\ntwo.\n\n    {LONG}\n\n- item\n- next"
    assert list(prose.docstring_paragraphs(text)) == ["One two.", "item", "next"]


def test_long_lines_and_rows_are_found() -> None:
    text = f"{'a ' * 60}b\n{'c' * 120}\n| {'d' * 116} |\n| {'e' * 117} |\n```\n{'f' * 300}\n```\n"
    assert prose.long_lines(text) == [
        "line 1 has 121 characters, allowed: 120",
        "line 4 has 121 characters, allowed: 120",
    ]


def test_long_lines_of_pages_are_found() -> None:
    text = f"{'a' * 110}\n{'b ' * 55}c\n"
    assert prose.long_lines_of_page(text) == ["line 2 has 111 characters, allowed: 110"]


@pytest.mark.parametrize("line", LINKS.values(), ids=LINKS)
def test_line_of_one_link_may_be_long(line: str) -> None:
    assert prose.long_lines(line) == []
    assert prose.long_lines(f"See {line}") != []
    assert prose.long_lines(f"[name](target) and {line}") != []
    assert prose.long_lines(f"{line} and [name](target)") != []


def test_docstrings_of_public_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        '"""M."""\nclass A:\n    """C."""\n    def b(self):\n        """B."""\n'
        '    def _c(self):\n        """P."""\ndef _d():\n    """P."""\n'
    )
    assert list(prose.docstrings(tmp_path / "made.py")) == [
        ("made", "M."),
        ("made.A", "C."),
        ("made.A.b", "B."),
    ]
