"""How Sphinx makes the documentation site (`make docs`). index.md names its parts and their pages.

The pages are plain Markdown, so that they also read well where Git is hosted. Nothing here needs Sphinx to be
imported: tests read this file without it.
"""

import re
from pathlib import Path
from typing import Any

project = "Crossdiff"
html_title = "Crossdiff"
extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4  # the deepest headings that links lead to
html_theme = "furo"
html_show_sourcelink = html_copy_source = html_use_index = False
smartquotes = False  # what models say stands as they say it

PART = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PAGE = re.compile(r"\]\(([\w-]+)\.md\)")
# A folder of the repository, or Markdown outside docs/. A linked file of another kind comes with the site.
NO_PAGE = re.compile(r"\[([^\]]*)\]\(\.\./[^)\s]*(?:/|\.md)(?:#[^)\s]*)?\)")
ASKED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|\burl\(["']?((?:https?:)?//[^"')]+)|@import\s+["']((?:https?:)?//[^"']+)""",
    re.IGNORECASE,
)


def parts(index: str) -> dict[str, list[str]]:
    """Part of the site -> its pages, in the order of index.md."""
    return {title: PAGE.findall(text) for title, text in PART.findall(index)}


def navigation(index: str) -> str:
    """The same in the form that Sphinx reads. A page that no part has stops the build."""
    lists = (
        "\n".join([f"```{{toctree}}\n:hidden:\n:caption: {title}\n", *pages, "```"])
        for title, pages in parts(index).items()
    )
    return "\n\n".join(lists)


def for_the_site(page: str) -> str:
    """A page whose links to what is no page of the site are plain text."""
    return NO_PAGE.sub(r"\1", page)


def asked_elsewhere(text: str) -> list[str]:
    """Addresses outside the site from which a page or style sheet loads something. Links do not count."""
    return [next(filter(None, found)) for found in ASKED.findall(text)]


def change_source(_app: Any, name: str, source: list[str]) -> None:
    more = "\n\n" + navigation(source[0]) if name == root_doc else ""
    source[0] = for_the_site(source[0]) + more


def check_site(app: Any, error: Exception | None) -> None:
    """Warn of pages that load something from elsewhere: the site works without a network."""
    from sphinx.util.logging import getLogger

    paths = [path for path in sorted(Path(app.outdir).rglob("*")) if path.suffix in {".html", ".css"}]
    for path in paths if error is None else []:
        for url in asked_elsewhere(path.read_text(encoding="utf-8")):
            getLogger(__name__).warning("%s: loads %s", path, url)


def setup(app: Any) -> None:
    app.connect("source-read", change_source)
    app.connect("build-finished", check_site)
