"""docs/files.md, made from the descriptions of all files (``described``)."""

import textwrap
from collections.abc import Iterable, Iterator

from crossdiff.results.described import Column, File, Section, common, sections

WIDTH = 120  # of prose
HEAD = """\
# Every file of a run

This page is made by `make reference` from `src/crossdiff/results/files/`. Edit the
descriptions there. In Python, `crossdiff.results.described.describe("betas.parquet")` gives those of
one file.

A path names exactly what a file depends on. What belongs to one model bears that model's name, so that runs
can share it. What belongs to a pair bears the pair's name. What depends on the layer lies below
`layer{layer}/`.

Next to every file lies `FILE.record.json`: what it was made from, by which code and settings
([audit.md](audit.md)).

The source of a column is a page of these docs, with the number of the formula: [method.md](method.md),
[planted.md](planted.md) or [explanations.md](explanations.md).
"""


def markdown() -> str:
    """The page."""
    lines = [*_prose(HEAD), *_vocabulary(), *(line for section in sections() for line in _section(section))]
    return "\n".join(lines).rstrip("\n") + "\n"


def _vocabulary() -> Iterator[str]:
    """Parts of paths, units, parts of columns, and shared columns."""
    known = common()
    yield from _table(("in a path", "is"), ((f"`{{{part}}}`", means) for part, means in known.paths.items()))
    yield from _prose("## Units")
    *counts, last = known.counts
    yield from _prose(f"A unit that is missing here says what is counted: {', '.join(counts)} or {last}.")
    yield from _table(("unit", "is"), known.units.items())
    yield from _prose("## Columns")
    yield from _prose("Columns of one kind have one row. Their names have these parts in braces:")
    for part, values in known.parts.items():
        yield from _wrapped(f"- `{{{part}}}`: {_values(values.items())}", indent="  ")
    yield ""
    yield from _prose("Columns that several files share are described here once:")
    yield from _columns(known.columns.values())


def _values(values: Iterable[tuple[str, str]]) -> str:
    """Values, with the words for those whose words say more."""
    return ", ".join(
        f"`{value}`" if words.replace("-", "_") == value else f"`{value}` ({words})"
        for value, words in values
    )


def _section(section: Section) -> Iterator[str]:
    yield from _prose(f"## {section.title}")
    yield from _prose(f"Below `{section.below}`. {section.about}")
    for file in section.files:
        yield from _file(file, section.below)


def _file(file: File, below: str) -> Iterator[str]:
    yield f"### {_code(pattern.removeprefix(below) for pattern in file.patterns)}"
    yield ""
    rules = " or ".join(f"`{rule}`" for rule in file.rules)
    yield from _prose(f"{file.means} Made by {rules}.{_taken(file, below)}")
    if file.own:
        yield from _columns(file.own)


def _taken(file: File, below: str) -> str:
    """What a file has of columns that are described elsewhere on the page."""
    said = []
    if file.shared:
        said.append(f"{_code(column.name for column in file.shared)} ([shared](#columns))")
    for pattern in file.like:
        which = _code(file.only) if file.only else "all columns"
        without = f" without {_code(file.without)}" if file.without else ""
        said.append(f"{which} of `{pattern.removeprefix(below).removeprefix('results/')}`{without}")
    return f" It has {' and '.join(said)}." if said else ""


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _columns(columns: Iterable[Column]) -> Iterator[str]:
    rows = (
        (f"`{name}`", unit, f"{means} ({when})" if when else means, source)
        for name, unit, means, source, when in columns
    )
    yield from _table(("column", "unit", "what it is", "source"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _prose(text: str) -> Iterator[str]:
    """Paragraphs, each in lines of at most WIDTH letters and with an empty line after it."""
    for paragraph in text.strip().split("\n\n"):
        yield from _wrapped(paragraph)
        yield ""


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of at most WIDTH letters. ``indent`` stands before each but the first."""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
