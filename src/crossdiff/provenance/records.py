"""Records: beside each result a JSON file that says what it was made from, by which code, with which settings, and where.

The record of ``figure.svg`` is ``figure.svg.record.json``; all outputs of a job have the same one. Its id is known before the job runs
(it digests rule, params, code and inputs), so writers embed it in what they write. Torch-free: the Snakefile imports this module.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Content
from crossdiff.provenance.storage import atomic_path

FORMAT = 3  # 1 had no "accepted"; 1 and 2 said "sha256" for "digest", and had no tree hashes
RESULTS = "results"  # the folder of all that jobs make
SUFFIX = ".record.json"
MARK = re.compile(rb"crossdiff-record:([0-9a-f]{32})")
_CHECKSUM = b',\n"checksum": "'
_EDGE = 1 << 20  # bytes at both ends of a file in which an embedded id is looked for


class RecordError(UserError):
    """A record that can't be read; ``verdict`` says why in two or three words."""

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class RecordedFile(NamedTuple):
    """An input or output of a job, as it was then."""

    name: str  # as the rule calls it; empty where it has no name
    path: str  # relative to the folder that Snakemake runs in
    digest: str
    size: int
    stamp: str
    files: dict[str, str] | None = None  # of an output folder: member -> digest

    @classmethod
    def of(cls, name: str, path: str, content: Content) -> "RecordedFile":
        return cls(name, path, *content)


class Acceptance(NamedTuple):
    """Says that ``crossdiff accept`` took over a result of older code."""

    when: str  # ISO 8601, UTC
    code: dict[str, str]  # the record's code until then: file -> digest of its syntax tree
    digest: str  # the params' "code" until then


class Record(NamedTuple):
    """What is known of the job that made a result."""

    id: str  # stays when the result is accepted: the result itself carries it
    rule: str
    wildcards: dict[str, str]
    params: dict[str, Any]  # "settings": full key -> value; "code": digest of the code
    code: dict[
        str, str
    ]  # file -> digest of its syntax tree; of the code that made the result, or for which it was accepted
    inputs: list[RecordedFile]
    outputs: list[RecordedFile]
    run: dict[
        str, Any
    ]  # times, host, device, SLURM job, git commit, versions: what the id does not depend on
    accepted: tuple[Acceptance, ...] = ()  # oldest first

    @property
    def settings(self) -> dict[str, Any]:
        return self.params.get("settings", {})

    @property
    def made_by(self) -> dict[str, str]:
        """The code that made the result, whatever code it was accepted for since."""
        return self.accepted[0].code if self.accepted else self.code

    def output(self, path: str) -> RecordedFile | None:
        return next((entry for entry in self.outputs if entry.path == path), None)


def record_id(
    rule: str,
    wildcards: dict[str, str],
    params: dict[str, Any],
    inputs: list[RecordedFile],
    outputs: list[str],
) -> str:
    """What a result depends on, as 32 hexadecimal digits. No times, hosts or stamps."""
    identity = [
        rule,
        wildcards,
        params,
        [(entry.name, entry.path, entry.digest) for entry in inputs],
        outputs,
    ]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def is_result(path: str) -> bool:
    """Whether a job made it, or should have; everything else is a source."""
    return path.startswith(f"{RESULTS}/")


def record_path(output: str | Path) -> Path:
    """Where the record of an output lies."""
    output = Path(output)
    return output.with_name(output.name + SUFFIX)


def write_record(output: str | Path, record: Record) -> None:
    """Write a record beside an output. Its last line holds a checksum of everything before it."""
    values = record._asdict()
    for key in ("inputs", "outputs"):
        values[key] = [
            {name: value for name, value in entry._asdict().items() if value is not None}
            for entry in values[key]
        ]
    values["accepted"] = [entry._asdict() for entry in record.accepted]
    body = json.dumps({"format": FORMAT} | values, indent=1, allow_nan=False).encode().removesuffix(b"\n}")
    with atomic_path(record_path(output)) as temporary:
        temporary.write_bytes(body + _checksum_line(body))


def _checksum_line(body: bytes) -> bytes:
    return _CHECKSUM + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def read_record(output: str | Path) -> Record:
    """The record of an output. Raises RecordError where it is missing, damaged or of a newer format."""
    path = record_path(output)
    try:
        raw = path.read_bytes()
    except OSError:
        raise RecordError(
            "record missing", f"{output}: no record; nothing is known of how it was made"
        ) from None
    body, _, _ = raw.rpartition(_CHECKSUM)
    try:
        values = json.loads(raw)
        found = values.pop("format")
        if isinstance(found, int) and found > FORMAT:
            known = f"format {found}, this version reads up to {FORMAT}; made by {values.get('rule')}"
            raise RecordError("record newer", f"{path}: {known}; update Crossdiff")
        if raw != body + _checksum_line(body):
            raise ValueError("its checksum is wrong")
        del values["checksum"]
        for key in ("inputs", "outputs"):
            values[key] = [RecordedFile(**_renamed(entry)) for entry in values[key]]
        values["accepted"] = tuple(Acceptance(**entry) for entry in values.get("accepted", []))
        return Record(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            "record damaged", f"{path}: damaged ({error}); only the id in the result itself tells of it"
        ) from None


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """A recorded file in the words of today: format 1 and 2 said sha256 for digest."""
    return {"digest" if name == "sha256" else name: value for name, value in entry.items()}


def embedded_id(path: str | Path) -> str | None:
    """The id of a record that a writer embedded in a file, None if there is none. Looks at both ends of the file, whatever its format."""
    with Path(path).open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(0, Path(path).stat().st_size - _EDGE))
        found = MARK.search(head) or MARK.search(file.read(_EDGE))
    return found[1].decode() if found else None
