"""Every file of a run, described: which rule makes it, and each column's unit, meaning and source.

The YAML files in ``files`` are the one source. Tests compare them with what a run writes, and ``reference``
makes docs/files.md of them. Without torch and pandas, so that a notebook's first lines need not wait.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from itertools import product
from typing import Any, NamedTuple

import yaml

from crossdiff.errors import UserError

SECTIONS = (
    "shared",
    "pair",
    "first_look",
    "training",
    "latents",
    "layer",
    "planted",
    "organisms",
    "overview",
)  # YAML files, in the order of the page
PART = re.compile(r"{(\w+)}")

Parts = Mapping[str, Mapping[str, str]]  # part -> its values in names -> how a sentence calls each


class Column(NamedTuple):
    """A column of a table, a key of a JSON file, or a tensor."""

    name: str  # with parts in braces until it is expanded
    unit: str
    means: str
    source: str = ""  # page of docs, and the number of the formula
    when: str = ""  # the column is there only then; empty: always


class File(NamedTuple):
    """Files of one kind."""

    patterns: tuple[str, ...]  # paths from the folder of a run, parts in braces; a folder ends with a slash
    rules: tuple[str, ...]
    means: str
    own: tuple[Column, ...]  # described here
    shared: tuple[Column, ...]  # described for several files
    like: tuple[str, ...]  # patterns of files whose columns it has as well
    only: tuple[str, ...]  # of those columns; empty: all
    without: tuple[str, ...]
    columns: Mapping[str, Column]  # all of the above, expanded, by name; empty for a file without columns


class Section(NamedTuple):
    """Files that stand together on the page."""

    title: str
    below: str  # what the patterns of all files begin with
    about: str
    files: tuple[File, ...]


class Common(NamedTuple):
    """What all descriptions share."""

    paths: Mapping[str, str]  # part of a path -> what it is
    units: Mapping[str, str]  # unit -> what it is
    counts: tuple[str, ...]  # units that say what is counted
    parts: Parts
    columns: Mapping[str, Column]


@cache
def common() -> Common:
    """What all descriptions share."""
    found = _read("common")
    parts = {
        name: values if isinstance(values, dict) else {value: value for value in values}
        for name, values in found["parts"].items()
    }
    return Common(found["paths"], found["units"], tuple(found["counts"]), parts, _columns(found["columns"]))


@cache
def sections() -> tuple[Section, ...]:
    """All descriptions, in the order of the page."""
    known: list[File] = []
    found = []
    for name in SECTIONS:
        section = _read(name)
        start = len(known)
        for entry in section["files"]:
            known.append(_file(entry, section["below"], known))
        title, below, about = section["title"], section["below"], section.get("about", "")
        found.append(Section(title, below, about, tuple(known[start:])))
    return tuple(found)


def files() -> list[File]:
    """Every kind of file that a run writes."""
    return [file for section in sections() for file in section.files]


def describe(path: str) -> dict[str, Column]:
    """Name of a column, key or tensor -> its description. Takes and raises what ``file_of`` does."""
    return dict(file_of(path).columns)


def file_of(path: str) -> File:
    """The description of a file.

    ``path`` is its path, absolute or from the folder of the run. Or it is its pattern in docs/files.md,
    or the end of one where no other pattern ends so: ``betas.parquet``. Raises UserError for anything else.
    """
    best = max(files(), key=lambda file: _specificity(file, path))
    return best if _specificity(best, path) >= 0 else _ending(path, files())


def expanded(columns: Iterable[Column], parts: Parts) -> Iterator[Column]:
    """Each column once for every value of the ``parts`` in its name. Parts that are not given stay in braces.

    In a sentence, words take the place of the part.
    """
    for column in columns:
        names = [name for name in PART.findall(column.name) if name in parts]
        for values in product(*(parts[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            words = {name: parts[name][value] for name, value in chosen.items()}
            yield column._replace(name=_filled(column.name, chosen), means=_filled(column.means, words))


def _filled(text: str, parts: Mapping[str, str]) -> str:
    return PART.sub(lambda match: parts.get(match[1], match[0]), text)


def _read(name: str) -> Any:
    path = resources.files(__package__) / "files" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _file(entry: Mapping[str, Any], below: str, known: list[File]) -> File:
    own = tuple(_columns(entry.get("columns", {})).values())
    shared = tuple(common().columns[name] for name in entry.get("shared", ()))
    like = [_ending(name, known) for name in _several(entry.get("like", ()))]
    only, without = tuple(entry.get("only", ())), tuple(entry.get("without", ()))
    taken = {name: column for other in like for name, column in other.columns.items()}
    columns = {name: taken[name] for name in only or taken if name not in without}
    columns |= {column.name: column for column in expanded([*shared, *own], common().parts)}
    return File(
        patterns=tuple(below + name for name in _several(entry["file"])),
        rules=_several(entry["rules"]),
        means=entry["means"],
        own=own,
        shared=shared,
        like=tuple(other.patterns[0] for other in like),
        only=only,
        without=without,
        columns=columns,
    )


def _ending(name: str, known: Iterable[File]) -> File:
    """The one file with a pattern that ends with ``name``. Raises UserError for none, or several."""
    found = [file for file in known if any(f"/{pattern}".endswith(f"/{name}") for pattern in file.patterns)]
    if len(found) != 1:
        several = f"it may be {' or '.join(file.patterns[0] for file in found)}; " if found else ""
        raise UserError(f"{name}: not a file that a run writes; {several}docs/files.md lists them")
    return found[0]


def _columns(entries: Mapping[str, Mapping[str, str]]) -> dict[str, Column]:
    return {name: Column(name, **entry) for name, entry in entries.items()}


def _several(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _specificity(file: File, path: str) -> int:
    """How many letters of the matching pattern stand outside of parts, at most; -1 if no pattern matches."""
    fitting = [pattern for pattern in file.patterns if _expression(pattern).fullmatch(path)]
    return max((len(PART.sub("", pattern)) for pattern in fitting), default=-1)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    literal = map(re.escape, re.split(r"{\w+}", pattern.rstrip("/")))
    return re.compile(f"(?:.*/)?{'[^/]+'.join(literal)}/?")
