"""Write the record of a job while it runs.

Inputs are hashed before the job reads them, and checked after it. Outputs are hashed before they get their
names.
"""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance import storage
from crossdiff.provenance.code import ROOT, code_parts, parts_digest
from crossdiff.provenance.hashing import Content, content, is_plain, stamp
from crossdiff.provenance.parts import Part, parts_of
from crossdiff.provenance.records import (
    Record,
    RecordedFile,
    RecordError,
    read_record,
    record_id,
    record_path,
    write_record,
)
from crossdiff.provenance.removed import made_again, removed

Files = Sequence[tuple[str, str]]  # (name, path), as ``named_files`` gives them


class Identity(NamedTuple):
    """What the result of a job depends on."""

    id: str  # of its record
    params: dict[str, Any]
    code: dict[str, str]
    inputs: list[RecordedFile]


@contextmanager
def recording(snakemake: Any) -> Iterator[None]:
    """Record what runs inside, a job's script. On success each output has its record, on failure none has.

    All outputs have the same record. If the job stands for several jobs, these have a record each
    (``provenance.parts``). A result that was removed as configured keeps its record until it is made again.

    Raises UserError if an input changed while the job ran, if an output is missing, and for params that
    Snakemake can't compare.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    gone = {output: removed(output) for output in snakemake.output}
    for output, known in gone.items():
        if known is None:
            record_path(output).unlink(missing_ok=True)
    parts = parts_of(snakemake.rule, snakemake)
    found: dict[str, Content] = {}
    identities = [
        identify(part.rule, part.wildcards, part.params, part.inputs, part.paths, found) for part in parts
    ]
    job = storage.CurrentJob(identities[0].id, frozenset(snakemake.output), {}, {})
    if len(parts) > 1:
        ids = zip(parts, identities, strict=True)
        job = job._replace(records={path: identity.id for part, identity in ids for path in part.paths})
    storage.current_job = job
    before = time.perf_counter() - clock
    try:
        yield
    finally:
        storage.current_job = None
    clock = time.perf_counter()
    for identity in identities:
        check_unchanged(identity.inputs)
    written = {path: _written(path, job) for path in snakemake.output}
    facts = _facts(snakemake, started) | ({"models": job.loaded} if job.loaded else {})
    facts["recording_seconds"] = round(before + time.perf_counter() - clock, 3)
    for part, identity in zip(parts, identities, strict=True):
        outputs = [RecordedFile.of(name, path, written[path]) for name, path in part.outputs]
        record = Record(
            identity.id,
            part.rule,
            part.wildcards,
            identity.params,
            identity.code,
            identity.inputs,
            outputs,
            facts | {"seeds": _seeds(part)},
        )
        for path in part.paths:
            write_record(path, record._replace(run=record.run | made_again(path, gone[path], record.id)))


def identify(
    rule: str,
    wildcards: dict[str, str],
    params: Mapping[str, Any],
    files: Files,
    outputs: list[str],
    found: dict[str, Content] | None = None,
) -> Identity:
    """Hash all that the result of a job depends on, as it is now. ``files`` are the job's inputs.

    ``found`` keeps the content of inputs that several jobs read. Raises UserError for an input that is
    missing, and for params that Snakemake can't compare.
    """
    code = code_parts(rule, *params.get("modules", []))
    plain = {name: _plain(name, value) for name, value in params.items()} | {"code": parts_digest(code)}
    found = {} if found is None else found
    for path in {path for _, path in files} - found.keys():
        found[path] = _read(path)._replace(files=None)
    inputs = [RecordedFile.of(name, path, found[path]) for name, path in files]
    return Identity(record_id(rule, wildcards, plain, inputs, outputs), plain, code, inputs)


def check_unchanged(inputs: list[RecordedFile]) -> None:
    """Raise UserError if one of the inputs is not as it was when ``identify`` hashed it."""
    for entry in inputs:
        if stamp(entry.path) != entry.stamp:
            raise UserError(
                f"{entry.path}: changed while the job ran, so what was read can't be known; run again"
            )


def _plain(name: str, value: Any) -> Any:
    """The value, if Snakemake notices its changes. Raises UserError otherwise.

    Snakemake silently ignores changes of dates, paths and arrays, and takes every set as changed.
    """
    if isinstance(value, dict):
        plain = all(isinstance(key, str) and _plain(name, inner) is inner for key, inner in value.items())
    elif isinstance(value, list):
        plain = all(_plain(name, inner) is inner for inner in value)
    else:
        plain = value is None or type(value) in (bool, int, float, str)
    if not plain:
        allowed = "text, numbers, true/false, lists and dicts of these"
        raise UserError(f"params {name}: found {value!r} ({type(value).__name__}), allowed: {allowed}")
    return value


def _read(path: str) -> Content:
    """The content of an input, taken from its own record if its stamp is unchanged.

    So large caches aren't read again. Otherwise the input is hashed, plainly if its record has a plain
    digest. So the job has the same id everywhere.
    """
    try:
        made = read_record(path).output(path)
    except RecordError:
        made = None
    if made and made.stamp == stamp(path):
        return Content(*made[2:])
    return content(path, plain=made is not None and is_plain(made.digest))


def _written(path: str, job: storage.CurrentJob) -> Content:
    hashed = job.written.get(path)
    return hashed if hashed and hashed.stamp == stamp(path) else content(path)


def _facts(snakemake: Any, started: datetime) -> dict[str, Any]:
    """Where and when the job ran, and with which versions. Its result should not depend on these."""
    torch = sys.modules.get("torch")  # not imported here, because half of the rules do without
    device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else "cpu"
    return {
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": device,
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": snakemake.threads,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "git": _git(),
        "python": platform.python_version(),
        "packages": _packages(),
        "config": os.environ.get("CROSSDIFF_CONFIG", "").split(os.pathsep),
    }


def _seeds(part: Part) -> dict[str, Any]:
    """The seeds among wildcards and settings, by their full keys."""
    values = part.wildcards | part.params.get("settings", {})
    return {key: value for key, value in values.items() if key.split(".")[-1] == "seed"}


def _git() -> dict[str, Any] | None:
    """The commit of the code and the tracked files that differ from it, or None outside a git checkout."""
    if not (ROOT / ".git").exists():  # a wheel may be installed below somebody else's checkout
        return None

    def git(*arguments: str) -> str:
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
        return {"commit": git("rev-parse", "HEAD").strip(), "changed_files": [line[3:] for line in changed]}
    except (OSError, subprocess.CalledProcessError):
        return None


def _packages() -> dict[str, str]:
    """Versions of the packages that Crossdiff requires."""
    required = [line for line in metadata.requires("crossdiff") or [] if "extra ==" not in line]
    names = sorted(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required)
    return {name: metadata.version(name) for name in names}
