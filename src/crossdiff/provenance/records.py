"""Records: next to each result lies a JSON file that says how it was made.

It names the inputs, the code, the settings, and where the job ran. The record of ``figure.svg`` is
``figure.svg.record.json``. All outputs of a job have the same record, unless the job stands for several
(``provenance.parts``). A record's id is a digest of rule, params, code and inputs, so it is known before the
job runs, and writers embed it in their files.

Torch-free, because the Snakefile imports this module.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Content
from crossdiff.provenance.storage import atomic_path

FORMAT = 3  # Format 1 had no "accepted". Formats 1 and 2 said "sha256" for "digest", and had no tree hashes.
RESULTS = "results"  # the folder for everything that jobs make
SUFFIX = ".record.json"
MARK = re.compile(rb"crossdiff-record:([0-9a-f]{32})")
_CHECKSUM = b',\n"checksum": "'
_EDGE = 1 << 20  # bytes at each end of a file that are searched for an embedded id


class RecordError(UserError):
    """Raised for a record that can't be read. ``verdict`` says why in two or three words."""

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class RecordedFile(NamedTuple):
    """An input or output of a job, as it was when the job ran."""

    name: str  # as the rule calls it, empty if it has no name
    path: str  # relative to the folder that Snakemake runs in
    digest: str
    size: int  # bytes
    stamp: str
    files: dict[str, str] | None = None  # of an output folder: member -> digest

    @classmethod
    def of(cls, name: str, path: str, content: Content) -> "RecordedFile":
        """The entry of a file with this content."""
        return cls(name, path, *content)


class Acceptance(NamedTuple):
    """Notes that ``crossdiff accept`` took over a result of older code."""

    when: str  # ISO 8601, UTC
    code: dict[str, str]  # the record's code until then: file -> digest of its syntax tree
    digest: str  # the params' "code" until then


class Record(NamedTuple):
    """Everything that is known of the job that made a result.

    ``code`` maps each file to the digest of its syntax tree. It is the code that made the result, or the code
    for which the result was accepted last. ``run`` holds what the id does not depend on: times, host, device,
    SLURM job, git commit, versions.
    """

    id: str  # does not change when the result is accepted, because the result itself holds it
    rule: str
    wildcards: dict[str, str]
    params: dict[str, Any]  # "settings": full key -> value; "code": digest of the code
    code: dict[str, str]
    inputs: list[RecordedFile]
    outputs: list[RecordedFile]
    run: dict[str, Any]
    accepted: tuple[Acceptance, ...] = ()  # oldest first

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the job used: full key -> value."""
        return self.params.get("settings", {})

    @property
    def made_by(self) -> dict[str, str]:
        """The code that made the result, even if the result was accepted for other code since."""
        return self.accepted[0].code if self.accepted else self.code

    def output(self, path: str) -> RecordedFile | None:
        """The entry of an output, or None if the job did not make ``path``."""
        return next((entry for entry in self.outputs if entry.path == path), None)


def record_id(
    rule: str,
    wildcards: dict[str, str],
    params: dict[str, Any],
    inputs: list[RecordedFile],
    outputs: list[str],
) -> str:
    """Digest of what a result depends on, as 32 hexadecimal digits. Times, hosts and stamps do not count."""
    read = [(entry.name, entry.path, entry.digest) for entry in inputs]
    identity = [rule, wildcards, params, read, outputs]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def is_result(path: str) -> bool:
    """Whether a path lies among the results, which jobs make. Every other file is a source."""
    return path.startswith(f"{RESULTS}/")


def record_path(output: str | Path) -> Path:
    """The path of an output's record."""
    output = Path(output)
    return output.with_name(output.name + SUFFIX)


def write_record(output: str | Path, record: Record) -> None:
    """Write a record next to an output. Its last line holds a checksum of everything before it."""
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
    """Read the record of an output. Raises RecordError if it is missing, damaged or of a newer format."""
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
            "record damaged",
            f"{path}: damaged ({error}); nothing certain is known of how its result was made",
        ) from None


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """A recorded file with today's key: formats 1 and 2 said sha256 for digest."""
    return {"digest" if name == "sha256" else name: value for name, value in entry.items()}


def embedded_id(path: str | Path) -> str | None:
    """The id of the record that a writer embedded in a file, or None if there is none.

    Searches the first and the last 1 MiB of a file of any format.
    """
    with Path(path).open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(0, Path(path).stat().st_size - _EDGE))
        found = MARK.search(head) or MARK.search(file.read(_EDGE))
    return found[1].decode() if found else None
