"""The site that `make docs` builds: its index, its links, and that it loads nothing from elsewhere."""

import re
from pathlib import Path

import conf
import prose
import pytest
from conftest import ROOT

import crossdiff
from crossdiff.report import limits
from crossdiff.workflow.evaluations import PAGE

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
DOCUMENTS = [
    *map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_index_has_four_parts_with_every_page_once() -> None:
    found = conf.parts(INDEX)
    assert list(found) == ["Tutorial", "How-to guides", "Reference", "Explanation"]
    pages = sorted(page for part in found.values() for page in part)
    assert pages == sorted({path.stem for path in DOCS.glob("*.md")} - {"index"})


def test_navigation_is_that_of_the_index() -> None:
    index = (
        "# All\n\nSee [x](x.md).\n\n## One\n\n- [a](a.md): text\n- [b-c](b-c.md)\n\n## Two\n\n- [d](d.md)\n"
    )
    one, two = conf.navigation(index).split("\n\n```{toctree}")
    assert one == "```{toctree}\n:hidden:\n:caption: One\n\na\nb-c\n```"
    assert two == "\n:hidden:\n:caption: Two\n\nd\n```"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("[cards](../data/cards/).", "cards."),
        ("[set up](../CONTRIBUTING.md#set-up)", "set up"),
        (
            "[a config](../config.yaml), [keys](config.md#pair)",
            "[a config](../config.yaml), [keys](config.md#pair)",
        ),
    ],
)
def test_site_links_only_to_what_it_has(page: str, expected: str) -> None:
    assert conf.for_the_site(page) == expected


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://unpkg.com/x.js"></script>',
        '<script defer src="//cdn.org/x.js">',
        "<link rel='stylesheet' href='https://fonts.org/css'>",
        '<img alt="a" src="http://badge.org/a.svg">',
        "@font-face { src: url(https://fonts.org/a.woff2) }",
        '@import "https://fonts.org/css";',
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(text: str) -> None:
    [url] = conf.asked_elsewhere(f"<p>{text}</p>")
    assert "org/" in url or "com/" in url


def test_links_and_own_files_are_no_loads() -> None:
    text = '<a href="https://arxiv.org"><script src="_static/a.js"></script><link href="a.css">url(data:a)'
    assert conf.asked_elsewhere(text) == []


# Where Git is hosted, links go by the files of the repository.


def anchors(page: Path) -> set[str]:
    headings = (
        line.lstrip("# ") for _, line in prose.prose_lines(page.read_text("utf-8")) if line.startswith("#")
    )
    plain = (prose.LINK.sub(r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_to_files_and_headings(path: Path) -> None:
    wrong = []
    text = "\n".join(line for _, line in prose.prose_lines(path.read_text(encoding="utf-8")))
    for link in LINK.findall(prose.CODE.sub("", text)):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if link.startswith(("https://", "http://")):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


# Pages that say what stands elsewhere, too.


def test_tutorial_goes_through_the_report_in_its_order() -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    headings = []
    for section in PAGE:
        if section != "tried":  # the default run has no saved sessions
            template = (ROOT / f"report/sections/{section}.html.jinja").read_text(encoding="utf-8")
            headings += re.findall(r"<h2 id=[^>]+>([^<{]+)</h2>", template)
    places = [text.find(f"**{heading}**") for heading in headings]
    assert len(headings) == len(PAGE) - 1 and -1 not in places, dict(zip(headings, places, strict=True))
    assert places == sorted(places)


def test_page_of_limits_has_the_reports_numbers() -> None:
    page = (DOCS / "limits.md").read_text(encoding="utf-8")
    assert f"fewer than {limits.FEW_LATENTS} chat-only latents" in page
    assert f"FVE of a model is below {limits.LOW_FVE}" in page
    assert limits.MANY_DEAD == 0.25 and "more than a quarter never fires" in page
    assert f"more than {limits.UNEQUAL_L0} times" in page


def test_page_of_python_has_every_public_name() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    assert all(f"`crossdiff.{name}`" in page for name in crossdiff.__all__)
