"""The papers that a run cites: entries of data/references.bib, and Crossdiff itself from CITATION.cff."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from crossdiff.errors import UserError
from crossdiff.report.latex import escaped

ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n.*?^\}$", re.MULTILINE | re.DOTALL)
KEYWORDS = re.compile(r"^ *keywords = \{([^}]*)\},?\n", re.MULTILINE)
RUN = "run"  # the keyword of what every run cites
SOFTWARE = "crossdiff"  # the key of Crossdiff itself
# Keywords of Crossdiff itself. A loss that no paper has comes from here (docs/method.md 21).
OURS = frozenset({RUN, SOFTWARE, "loss bridge"})


class Entry(NamedTuple):
    """One entry of a BibTeX file."""

    key: str
    text: str  # without its keywords
    keywords: frozenset[str]


class References:
    """What a run may cite, and what it cites.

    ``cite`` gives the command, and keeps in mind that the entries are needed.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._used = {entry.key for entry in entries if RUN in entry.keywords}

    def cite(self, keyword: str) -> str:
        """Return a ``cite`` command for all entries with a keyword, or "" if no entry has it."""
        keys = [entry.key for entry in self.entries if keyword in entry.keywords]
        self._used.update(keys)
        return rf"~\cite{{{','.join(keys)}}}" if keys else ""

    def bibliography(self) -> str:
        """Return the entries that were cited, and those that every run cites, as BibTeX."""
        return "\n\n".join(entry.text for entry in self.entries if entry.key in self._used) + "\n"


def read_references(papers: str | Path, citation: str | Path) -> References:
    """Read data/references.bib and CITATION.cff. Raises UserError for an entry that has no keywords."""
    entries = []
    for found in ENTRY.finditer(Path(papers).read_text(encoding="utf-8")):
        keywords = KEYWORDS.search(found[0])
        if keywords is None:
            raise UserError(f"{papers}: {found[1]} has no line of keywords, which say who cites it; add it")
        words = frozenset(word.strip() for word in keywords[1].split(","))
        entries.append(Entry(found[1], KEYWORDS.sub("", found[0]), words))
    software = yaml.safe_load(Path(citation).read_text(encoding="utf-8"))
    return References([*entries, Entry(SOFTWARE, _software(software), OURS)])


def _software(citation: Mapping[str, Any]) -> str:
    """Crossdiff's entry, from the fields of CITATION.cff."""
    day = str(citation["date-released"])
    authors = " and ".join(f"{{{escaped(author['name'])}}}" for author in citation["authors"])
    fields = {
        "title": f"{{{escaped(citation['title'])}}}",
        "author": authors,
        "version": citation["version"],
        "date": day,
        "year": day[:4],
        "note": f"Version {citation['version']}, {citation['license']} licence",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{SOFTWARE},", *lines, "}"])
