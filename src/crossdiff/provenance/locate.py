"""Find the result that a file is, or the results that an exported folder holds.

Copies are known by their bytes, by the record next to them, or by the id that writers embed in their files.
"""

import os.path
from pathlib import Path
from typing import NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.audit import CHANGED, INPUT_NOT_HERE, MISSING, Finding, Node
from crossdiff.provenance.hashing import Hashes, size
from crossdiff.provenance.records import (
    RESULTS,
    SUFFIX,
    Record,
    RecordedFile,
    RecordError,
    embedded_id,
    read_record,
    record_path,
)
from crossdiff.provenance.scratch import walked
from crossdiff.provenance.trust import all_results


class Exported(NamedTuple):
    """What a folder with copies of results and of their records is."""

    said: str  # one line: which results they are, and whether the bytes are theirs
    found: dict[str, list[Finding]]  # path of a result of the checkout -> how its copy differs
    others: list[Node]  # copies of no result of the checkout, and those that are not in the folder


class _Recorded:
    """The results of a checkout with their records, read once. Files that are not here have records, too."""

    def __init__(self, checkout: Path) -> None:
        self.ids: dict[str, str] = {}
        self.made: dict[str, RecordedFile] = {}
        for path in all_results(walked(checkout), checkout):
            record = _record_of(checkout / path)  # the audit of a result tells of a record that is damaged
            made = record and record.output(path)
            if record and made:
                self.ids[path], self.made[path] = record.id, made

    def find(self, path: Path) -> tuple[str, list[Finding]] | None:
        """The result that a copy is, with a finding if its bytes differ. None if there is none.

        Results of the same record come first, because several may have the same bytes.
        """
        known, there = _id(path), Hashes(path.parent, {}, deep=True)
        of_job = [result for result, identity in self.ids.items() if identity == known]
        same = [result for result, made in self.made.items() if _is_of(made, path, there)]
        if same:
            return min(same, key=lambda result: result not in of_job), []
        alike = [result for result in of_job if Path(result).suffix == path.suffix]
        if not alike:
            return None
        result = min(alike, key=lambda result: Path(result).name != path.name)
        detail = f"{path} is not byte for byte what the record of {result} describes"
        return result, [Finding(CHANGED, detail)]


def locate(path: Path, checkout: Path) -> tuple[Path, str, list[Finding]]:
    """Find the result that a file is: (root, path below it, findings).

    For a member of a folder that one job made as a whole, this is the folder. A file without a home is looked
    for among the results of ``checkout``, by its bytes or by the id of its record. In the second case a
    finding says that its bytes differ. Raises UserError if nothing is known of the file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    absolute = path.absolute()
    home = _home(absolute)
    if home:
        for place in (absolute, *absolute.parents):
            if place.is_relative_to(home / RESULTS) and record_path(place).exists():
                return home, place.relative_to(home).as_posix(), []
    results = _Recorded(checkout)
    if found := results.find(absolute):
        return checkout, *found
    if home:
        return home, absolute.relative_to(home).as_posix(), []
    known = _id(absolute)
    if of_job := next((result for result, identity in results.ids.items() if identity == known), None):
        raise UserError(f"{path}: no result, but it holds the id of the record of {of_job}; audit that")
    said = _what_can_be_said(absolute)
    raise UserError(f"{path}: {said} It is not among the results of {checkout}.")


def locate_exported(folder: Path, checkout: Path) -> Exported | None:
    """Find the results of ``checkout`` that a folder holds copies of, such as a folder for the hub.

    None if it is a result itself, lies among results, or holds no records. Raises UserError for a results
    folder, and if the records are of no result of ``checkout``.
    """
    absolute = folder.resolve()
    if not folder.is_dir() or _home(absolute) or record_path(absolute).exists():
        return None
    if absolute.name == RESULTS or (absolute / RESULTS).is_dir():
        home = absolute.parent if absolute.name == RESULTS else absolute
        raise UserError(f"{folder}: a results folder; run crossdiff audit --all in {home}")
    copies = sorted(path.with_name(path.name.removesuffix(SUFFIX)) for path in absolute.rglob("*" + SUFFIX))
    if not copies:
        return None
    results = _Recorded(checkout)
    located = {copy: results.find(copy) for copy in (*copies, *_bare(absolute)) if copy.exists()}
    hits = {copy: hit for copy, hit in located.items() if hit}
    if not hits:
        copy = next(iter(located), copies[0])
        first = _what_can_be_said(copy)
        where = "Run this in the folder that has the results it came from."
        raise UserError(f"{folder}: its records are of no result of {checkout}; {copy.name}: {first} {where}")
    found: dict[str, list[Finding]] = {}
    for result, findings in hits.values():
        found.setdefault(result, []).extend(findings)
    others = [_unknown(copy, results) for copy in copies if copy not in hits]
    return Exported(_said(folder, hits, others), found, others)


def _said(folder: Path, hits: dict[Path, tuple[str, list[Finding]]], others: list[Node]) -> str:
    top = [result for copy, (result, _) in hits.items() if copy.parent == folder.resolve()]
    all_found = [result for result, _ in hits.values()]
    what = os.path.commonpath([str(Path(result).parent) for result in top or all_found])
    same = sum(not findings for _, findings in hits.values())
    beside = [f"{len(others)} of no result here, or missing"] if others else []
    bare = [path.relative_to(folder.resolve()).as_posix() for path in _bare(folder.resolve())]
    beside += [f"without a record: {', '.join(bare[:3])}{' ...' if len(bare) > 3 else ''}"] if bare else []
    bytes_are = f"{same} of {len(hits)} files are byte for byte those that its records describe"
    return "; ".join([f"{folder} is a copy from {what}", bytes_are, *beside])


def _bare(folder: Path) -> list[Path]:
    """The files of a folder that have no record next to them."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(SUFFIX))
    return sorted(path for path in files if not record_path(path).exists())


def _unknown(copy: Path, results: _Recorded) -> Node:
    """A copy that is of no result of the checkout, or whose record is all that the folder has."""
    there = Hashes(copy.parent, {}, deep=True)
    if not copy.exists():
        return Node(str(copy), None, None, [Finding(MISSING, "only its record is in the folder")])
    digest = there.now(copy.name)
    record = _record_of(copy)
    if record is None:
        return Node(str(copy), digest, None, [Finding("record damaged", "next to it")])
    made = next((entry for entry in record.outputs if _is_of(entry, copy, there)), None)
    if made is None:
        return Node(str(copy), digest, None, [Finding(CHANGED, "its bytes are not those of its record")])
    if made.path in results.made:
        return Node(str(copy), digest, None, [Finding(CHANGED, f"of another job than {made.path} here")])
    return Node(str(copy), digest, None, [Finding(INPUT_NOT_HERE, made.path)])


def _home(path: Path) -> Path | None:
    """The folder that contains the innermost results folder above a path."""
    return next((parent.parent for parent in path.parents if parent.name == RESULTS), None)


def _record_of(path: Path) -> Record | None:
    """The record next to a file. None if there is none that can be read."""
    try:
        return read_record(path)
    except RecordError:
        return None


def _id(path: Path) -> str | None:
    """The id of the record next to a file, or of the one that is embedded in it. None if there is none."""
    if record := _record_of(path):
        return record.id
    return None if path.is_dir() else embedded_id(path)


def _is_of(entry: RecordedFile, path: Path, there: Hashes) -> bool:
    """Whether a file or folder has the bytes that a record describes. It is read only if its size agrees."""
    return entry.size == size(path) and entry.digest == there.now(path.name, entry)


def _what_can_be_said(path: Path) -> str:
    try:
        record = read_record(path)
    except RecordError as error:
        if known := _id(path):
            todo = "audit it in the checkout it came from"
            return f"no record next to it, but it holds the id of one, {known}: {todo}."
        return f"{error.verdict}, and it holds no record's id; nothing is known of how it was made."
    there = Hashes(path.parent, {}, deep=True)
    same = path.exists() and any(_is_of(entry, path, there) for entry in record.outputs)
    bytes_are = "its bytes are those" if same else "its bytes are not those"
    commit = (record.run["git"] or {}).get("commit", "unknown")
    made = f"made by {record.rule} on {record.run['finished']}, commit {commit}"
    return f"moved away from {record.outputs[0].path}; {bytes_are} of its record: {made}."
