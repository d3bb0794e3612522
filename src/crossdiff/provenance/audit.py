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
from crossdiff.provenance.hashing import Hashes, content, is_plain
from crossdiff.provenance.json_cache import FOLDER, JsonCache
from crossdiff.provenance.planned_jobs import PlannedJob, plan
from crossdiff.provenance.records import (
    RESULTS,
    Record,
    RecordedFile,
    RecordError,
    is_result,
    read_record,
)
from crossdiff.provenance.removed import earlier, has_other_bits, input_changed, removed
from crossdiff.provenance.scratch import walked
from crossdiff.provenance.trust import all_results

VERIFIED = "verified"
ACCEPTED = "accepted"
REMOVED = "removed as configured"
MADE_AGAIN = "input made again with other bits"
CODE_DIFFERS = "code differs now"
ORPHAN = "orphan"
CHANGED, INPUT_CHANGED = "file changed", "input changed since"
# These contradict nothing: something is not here to be compared.
MISSING, INPUT_NOT_HERE, NOT_COMPARED = "file missing", "input not here", "not compared"
DIFFERS = "differs"


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
    def standing(self) -> str:
        """What can be said of the file in one word, the worst of its findings.

        DIFFERS is for any that contradicts the record. If none does: MISSING, INPUT_NOT_HERE, NOT_COMPARED.
        If there are none: REMOVED, ACCEPTED or VERIFIED.
        """
        found = {finding.verdict for finding in self.findings}
        if found:
            absent = [verdict for verdict in (MISSING, INPUT_NOT_HERE, NOT_COMPARED) if verdict in found]
            return absent[0] if len(absent) == len(found) else DIFFERS
        return REMOVED if self.removed else ACCEPTED if self.accepted else VERIFIED

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


class _Hashes(Hashes):
    """Hashes that know which files they read."""

    def __init__(self, root: Path, remembered: JsonCache, deep: bool) -> None:
        super().__init__(root, remembered, deep)
        self.read: set[str] = set()

    def _read(self, path: str, key: str, plain: bool) -> str:
        self.read.add(path)
        return super()._read(path, key, plain)


class Audit:
    """Verdicts on the results below ``root``.

    ``configs``: config files to compare with, instead of those that the records name.
    ``deep``: read and hash every file again, even if its stamp is unchanged.
    """

    def __init__(self, root: Path, configs: list[Path] | None = None, deep: bool = False) -> None:
        self.root, self.configs = root, configs
        self.remembered = JsonCache(root / FOLDER / "hashes.json")
        self.hashes = _Hashes(root, self.remembered, deep)
        self._records: dict[str, Record | None] = {}
        self._members: dict[str, dict[str, str]] = {}  # of folders that lack some
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
                finding = Finding(MISSING, "and its record")
            return Node(path, now, None, [finding])
        made = record.output(path)
        if made is None:
            finding = Finding(CHANGED, f"its record is of {record.outputs[0].path}")
            return Node(path, self.hashes.now(path), None, [finding])
        now = self.hashes.now(path, made)
        findings, notes = [], [*self._made_again(record)]
        if removed(path, self.root) is not None:
            notes.append(Finding(REMOVED, "its record stays"))
        elif now is None:
            findings.append(Finding(MISSING, f"it had {made.size:,} bytes"))
        elif now != made.digest:
            lacking = self._lacking(made)
            detail = f"in it: {', '.join(lacking)}" if lacking else self._what_changed(made)
            findings.append(Finding(MISSING if lacking else CHANGED, detail))
        return Node(path, now, record, [*findings, *self._since(record, path)], tuple(notes))

    def _made_again(self, record: Record) -> Iterator[Finding]:
        """Find inputs that their jobs have made again and that are not bit for bit what this job read."""
        if others := [entry.path for entry in record.inputs if has_other_bits(entry, self.hashes)]:
            yield Finding(MADE_AGAIN, others[0] if len(others) == 1 else f"{len(others)}, {others[0]} first")

    def _source(self, entry: RecordedFile, reader: str) -> Node:
        now = self.hashes.now(entry.path, entry)
        finding = Finding(CHANGED if now else MISSING, f"since {reader} was made")
        return Node(entry.path, now, None, [finding] if now != entry.digest else [])

    def _what_changed(self, made: RecordedFile) -> str:
        if made.files is None:
            return "its bytes are not those of the record"
        was, now = made.files, content(self.root / made.path, is_plain(made.digest)).files or {}
        return "in it: " + ", ".join(sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n)))

    def _lacking(self, made: RecordedFile) -> list[str]:
        """Members of a folder that are not here. Empty if one that is here is not as recorded."""
        if made.files is None or not (self.root / made.path).is_dir():
            return []
        if made.path not in self._members:  # many results read one model
            self._members[made.path] = content(self.root / made.path, is_plain(made.digest)).files or {}
        now = self._members[made.path]
        return sorted(made.files.keys() - now.keys()) if now.items() <= made.files.items() else []

    def _of_input(self, entry: RecordedFile) -> str | None:
        """The verdict on an input. None if it is what the job read, or was removed as configured."""
        record = self._record(entry.path)
        made = record and record.output(entry.path)
        if self.hashes.now(entry.path, entry) is None and removed(entry.path, self.root) is None:
            if record is None or made is None or is_plain(made.digest) != is_plain(entry.digest):
                return INPUT_NOT_HERE
            before = earlier(entry.path, record)  # the record stays where a file was not copied
            read = entry.digest in {made.digest, *(before.digests if before else ())}
            return INPUT_NOT_HERE if read else INPUT_CHANGED
        if not input_changed(entry, self.hashes):
            return None
        lacks = made is not None and made.digest == entry.digest and self._lacking(made)
        return INPUT_NOT_HERE if lacks else INPUT_CHANGED

    def _record(self, path: str) -> Record | None:
        """The record of an input, read once. None if there is none that can be read."""
        if path not in self._records:
            try:
                self._records[path] = read_record(self.root / path)
            except RecordError:
                self._records[path] = None
        return self._records[path]

    def _since(self, record: Record, path: str) -> Iterator[Finding]:
        """Find what has changed since the job ran: inputs, config, code."""
        jobs = self._plan(record)
        job = None if isinstance(jobs, UserError) else jobs.get(path)
        for entry in record.inputs:
            verdict = self._of_input(entry)
            if verdict and not (verdict == INPUT_CHANGED and job and entry.path in job.order_only):
                yield Finding(verdict, entry.path)
        if isinstance(jobs, UserError):
            yield Finding(NOT_COMPARED, str(jobs))
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
