"""Audit a result: follow its records down to model weights and source text.

Each step is compared with disk, config and code as they are today. Torch-free, and starts without
transformers, pandas and Snakemake.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance import code
from crossdiff.provenance.hashing import Hashes, content, is_plain, size
from crossdiff.provenance.json_cache import FOLDER, JsonCache
from crossdiff.provenance.planned_jobs import PlannedJob, plan
from crossdiff.provenance.records import (
    RESULTS,
    Record,
    RecordedFile,
    RecordError,
    embedded_id,
    is_result,
    read_record,
    record_path,
)
from crossdiff.provenance.removed import has_other_bits, input_changed, removed
from crossdiff.provenance.scratch import walked
from crossdiff.provenance.trust import all_results, outputs

VERIFIED = "verified"
ACCEPTED = "accepted"
REMOVED = "removed as configured"
MADE_AGAIN = "input made again with other bits"
CODE_DIFFERS = "code differs now"
ORPHAN = "orphan"


class Finding(NamedTuple):
    """The reason why a file isn't verified."""

    verdict: str
    detail: str


class Node(NamedTuple):
    """A file in a result's history: a result, or a source, which no job made."""

    path: str
    digest: str | None  # of the file as it is now, None if it is missing
    record: Record | None
    findings: list[Finding]
    notes: tuple[Finding, ...] = ()  # what a reader should know of a file that has no findings

    @property
    def inputs(self) -> list[RecordedFile]:
        """The files that the result was made from. Empty if there is no record."""
        return self.record.inputs if self.record else []

    @property
    def accepted(self) -> bool:
        """Whether ``crossdiff accept`` took the result over, and nothing else differs."""
        return not self.findings and self.record is not None and bool(self.record.accepted)

    @property
    def removed(self) -> bool:
        """Whether the file was removed as configured, and nothing else differs."""
        return not self.findings and any(note.verdict == REMOVED for note in self.notes)

    @property
    def verdicts(self) -> list[Finding]:
        """The findings. If there are none: the notes, and whether the file is accepted or verified."""
        if self.findings:
            return self.findings
        found = [*self.notes]
        if self.record is not None and self.record.accepted:
            first, last = self.record.accepted[0], self.record.accepted[-1]
            commit = (self.record.run["git"] or {}).get("commit", "unknown")
            made_by = f"made by older code {first.digest}, commit {commit}"
            found.append(Finding(ACCEPTED, f"on {last.when}; {made_by}"))
        return found or [Finding(VERIFIED, "")]


class Audit:
    """Verdicts on the results below ``root``.

    ``configs``: config files to compare with, instead of those that the records name.
    ``deep``: read and hash every file again, even if its stamp is unchanged.
    """

    def __init__(self, root: Path, configs: list[Path] | None = None, deep: bool = False) -> None:
        self.root, self.configs = root, configs
        self.remembered = JsonCache(root / FOLDER / "hashes.json")
        self.hashes = Hashes(root, self.remembered, deep)
        self._plans: dict[tuple[Path, ...], dict[str, PlannedJob] | UserError] = {}

    def chain(self, path: str) -> dict[str, Node]:
        """Path -> node of a result and of everything that it was made from, the result first."""
        nodes: dict[str, Node] = {}
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in nodes:
                continue
            nodes[path] = node = self.result(path)
            for entry in reversed(node.inputs):
                if is_result(entry.path):
                    waiting.append(entry.path)
                elif entry.path not in nodes or not nodes[entry.path].findings:
                    nodes[entry.path] = self._source(entry, path)
        return nodes

    def everything(self) -> dict[str, Node]:
        """Path -> node of every result below ``root``, and of every result that is gone.

        Those are known from their own records, or from the records of what was made from them. Raises
        UserError if there are none.
        """
        paths = all_results(walked(self.root), self.root)
        if not paths:
            raise UserError(f"{self.root / RESULTS}: no results here; run this in the checkout that has them")
        nodes = {path: self.result(path) for path in paths}
        read = {entry.path for node in nodes.values() for entry in node.inputs if is_result(entry.path)}
        gone = sorted(path for path in read - nodes.keys() if self.hashes.now(path) is None)
        return nodes | {path: self.result(path) for path in gone}

    def result(self, path: str) -> Node:
        """Compare one result with its record, its inputs, the config and the code."""
        try:
            record = read_record(self.root / path)
        except RecordError as error:
            now = self.hashes.now(path)
            finding = Finding(error.verdict, str(error).removeprefix(f"{self.root}/"))
            if now is None and error.verdict == "record missing":
                finding = Finding("file missing", "and its record")
            return Node(path, now, None, [finding])
        made = record.output(path)
        if made is None:
            finding = Finding("file changed", f"its record is of {record.outputs[0].path}")
            return Node(path, self.hashes.now(path), None, [finding])
        now = self.hashes.now(path, made)
        findings, notes = [], [*self._made_again(record)]
        if removed(path, self.root) is not None:
            notes.append(Finding(REMOVED, "its record stays"))
        elif now is None:
            findings.append(Finding("file missing", f"it had {made.size:,} bytes"))
        elif now != made.digest:
            findings.append(Finding("file changed", self._what_changed(made)))
        return Node(path, now, record, [*findings, *self._since(record, path)], tuple(notes))

    def _made_again(self, record: Record) -> Iterator[Finding]:
        """Find inputs that their jobs have made again and that are not bit for bit what this job read."""
        if others := [entry.path for entry in record.inputs if has_other_bits(entry, self.hashes)]:
            yield Finding(MADE_AGAIN, others[0] if len(others) == 1 else f"{len(others)}, {others[0]} first")

    def _source(self, entry: RecordedFile, reader: str) -> Node:
        now = self.hashes.now(entry.path, entry)
        finding = Finding("file changed" if now else "file missing", f"since {reader} was made")
        return Node(entry.path, now, None, [finding] if now != entry.digest else [])

    def _what_changed(self, made: RecordedFile) -> str:
        if made.files is None:
            return "its bytes are not those of the record"
        was, now = made.files, content(self.root / made.path, is_plain(made.digest)).files or {}
        return "in it: " + ", ".join(sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n)))

    def _since(self, record: Record, path: str) -> Iterator[Finding]:
        """Find what has changed since the job ran: inputs, config, code."""
        jobs = self._plan(record)
        job = None if isinstance(jobs, UserError) else jobs.get(path)
        for entry in record.inputs:
            if not (job and entry.path in job.order_only) and input_changed(entry, self.hashes):
                yield Finding("input changed since", entry.path)
        if isinstance(jobs, UserError):
            yield Finding("not compared", str(jobs))
        elif job is None:
            yield Finding(ORPHAN, "no job of this config makes it")
        else:
            yield from (Finding("config differs now", detail) for detail in _differences(record, job))
        yield from (Finding(CODE_DIFFERS, file) for file in _changed_code(record))

    def _plan(self, record: Record) -> dict[str, PlannedJob] | UserError:
        configs = tuple(self.configs or map(Path, record.run["config"]))
        if configs not in self._plans:
            try:
                self._plans[configs] = plan(self.root, list(configs))
            except UserError as error:
                self._plans[configs] = error
        return self._plans[configs]

    def keys(self) -> set[str]:
        """The keys of all settings that any job of the plans uses."""
        plans = [jobs for jobs in self._plans.values() if isinstance(jobs, dict)]
        return {key for jobs in plans for job in jobs.values() for key in job.params.get("settings", {})}


def settings(nodes: dict[str, Node]) -> dict[str, list[Any]]:
    """Settings that mattered: key -> its values. It has several if steps were made with different values."""
    found: dict[str, list[Any]] = {}
    for node in nodes.values():
        for key, value in (node.record.settings if node.record else {}).items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return dict(sorted(found.items()))


def flat_params(params: dict[str, Any]) -> dict[str, Any]:
    """Settings by their keys, and other params by their names.

    The code is left out, because it is compared file by file.
    """
    return params.get("settings", {}) | {
        name: value for name, value in params.items() if name not in ("settings", "code")
    }


def _differences(record: Record, job: PlannedJob) -> Iterator[str]:
    was, now = flat_params(record.params), flat_params(job.params)
    for key in sorted(was.keys() | now.keys()):
        if key not in was or key not in now or was[key] != now[key]:
            yield f"{key} was {was.get(key, 'not used')!r}, is {now.get(key, 'not used')!r}"
    before, after = {entry.path for entry in record.inputs}, set(job.inputs)
    yield from (f"it would also be made from {path}" for path in sorted(after - before))
    yield from (f"it would no longer be made from {path}" for path in sorted(before - after))


def _changed_code(record: Record) -> list[str]:
    now = code_now(record)
    return sorted(file for file in record.code.keys() | now.keys() if record.code.get(file) != now.get(file))


def code_now(record: Record) -> dict[str, str]:
    """File -> digest of the code that the record's rule would run today.

    Empty if the rule is gone, or a module that its params name.
    """
    return _code_of(record.rule, *record.params.get("modules", []))


@cache
def _code_of(rule: str, *modules: str) -> dict[str, str]:
    try:
        return code.code_parts(rule, *modules)
    except (FileNotFoundError, ModuleNotFoundError):
        return {}


def locate(path: Path, checkout: Path) -> tuple[Path, str, list[Finding]]:
    """Find the result that a file is: (root, path below it, findings).

    For a member of a folder that one job made as a whole, this is the folder. A file without a record next to
    it is looked for among the results of ``checkout``, by its bytes or by the id embedded in it. In the
    second case a finding says that its bytes differ. Raises UserError if nothing is known of the file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    absolute = path.absolute()
    home = _home(absolute)
    if home:
        for place in (absolute, *absolute.parents):
            if place.is_relative_to(home / RESULTS) and record_path(place).exists():
                return home, place.relative_to(home).as_posix(), []
    there = Hashes(absolute.parent, {}, deep=True)
    known = None if path.is_dir() else embedded_id(absolute)
    for candidate in outputs(walked(checkout), checkout):
        try:
            record = read_record(checkout / candidate)
        except RecordError:
            continue  # the audit of that result says so
        made = record.output(candidate)
        if made and _is_of(made, absolute, there):
            return checkout, candidate, []
        if record.id == known and Path(candidate).suffix == path.suffix:
            detail = f"{path} is not byte for byte what the record of {candidate} describes"
            return checkout, candidate, [Finding("file changed", detail)]
    if home:
        return home, absolute.relative_to(home).as_posix(), []
    raise UserError(
        f"{path}: {_what_can_be_said(absolute, there, known)} It is not among the results of {checkout}."
    )


def _home(path: Path) -> Path | None:
    """The folder that contains the innermost results folder above a path."""
    return next((parent.parent for parent in path.parents if parent.name == RESULTS), None)


def _is_of(entry: RecordedFile, path: Path, there: Hashes) -> bool:
    """Whether a file or folder has the bytes that a record describes. It is read only if its size agrees."""
    return entry.size == size(path) and entry.digest == there.now(path.name, entry)


def _what_can_be_said(path: Path, there: Hashes, known: str | None) -> str:
    try:
        record = read_record(path)
    except RecordError as error:
        if known:
            todo = "audit it in the checkout it came from"
            return f"no record next to it, but it holds the id of one, {known}: {todo}."
        return f"{error.verdict}, and it holds no record's id; nothing is known of how it was made."
    same = any(_is_of(entry, path, there) for entry in record.outputs)
    bytes_are = "its bytes are those" if same else "its bytes are not those"
    commit = (record.run["git"] or {}).get("commit", "unknown")
    made = f"made by {record.rule} on {record.run['finished']}, commit {commit}"
    return f"moved away from {record.outputs[0].path}; {bytes_are} of its record: {made}."
