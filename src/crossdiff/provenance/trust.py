"""Decide which results Snakemake may take as finished.

Snakemake keeps what it knows of a result in .snakemake/metadata, and never looks into the result again.
Before each DAG is built, this module makes these metadata agree with the records next to the results:

- Metadata that are lost, or that describe another file, are restored from the record.
- If a result or one of its inputs is not what the record says, the reason replaces the params in the
  metadata. Snakemake then sees changed params, and makes the result again.
- A killed Snakemake leaves marks at files whose jobs it had started. A verified result loses its mark.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.provenance.hashing import IGNORED, Hashes, is_plain
from crossdiff.provenance.json_cache import FOLDER, JsonCache
from crossdiff.provenance.records import SUFFIX, Record, RecordedFile, RecordError, read_record
from crossdiff.provenance.removed import earlier, input_changed, removed

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

NO_RECORD = "has no record"


class Reconciled(NamedTuple):
    """What was found on disk."""

    found: list[str]  # paths of all outputs
    # Of results that were removed and made again (``provenance.removed``): path -> when they were made first,
    # in nanoseconds. Snakemake would make everything again that was made from the earlier ones.
    first_made: dict[str, int]


class Result(NamedTuple):
    """An output on disk, or one that was removed as configured."""

    path: str
    record: Record | None  # None if it is missing or can't be read
    doubt: str | None  # why the output can't be trusted; None if it can, and then there is a record


def survey(folders: list[str], hashes: Hashes, order_only: Mapping[str, set[str]]) -> Iterator[Result]:
    """Compare every output below ``folders`` with its record. Those that were removed come last.

    ``order_only``: rule -> names of the inputs whose content does not count.
    """
    for path in (*outputs(folders, hashes.root), *removed_results(folders, hashes.root)):
        found = record_or_doubt(path, hashes.root)
        if isinstance(found, str):
            yield Result(path, None, found)
        else:
            doubt = reason_to_doubt(path, found, hashes, order_only.get(found.rule, set()))
            yield Result(path, found, doubt)


def record_or_doubt(path: str, root: Path) -> Record | str:
    """The record of a result, or why there is none that can be read."""
    try:
        return read_record(root / path)
    except RecordError as error:
        return NO_RECORD if error.verdict == "record missing" else f"has a {error.verdict}"


def reason_to_doubt(
    path: str, record: Record, hashes: Hashes, order_only: Collection[str] = ()
) -> str | None:
    """Why a result can't be believed, None if it can. ``order_only``: names of inputs whose content does not
    count.

    The bytes of a result that was removed as configured can't be compared.
    """
    if removed(path, hashes.root) is None and (doubt := not_as_made(path, record, hashes)):
        return doubt
    changed = [
        entry.path for entry in record.inputs if entry.name not in order_only and input_changed(entry, hashes)
    ]
    return f"was made from another {changed[0]}" if changed else None


def not_as_made(path: str, record: Record, hashes: Hashes) -> str | None:
    """Why a result is not what the job of its record made. None if it is."""
    made = record.output(path)
    if made is None:
        return f"has the record of another file ({record.outputs[0].path})"
    return "was changed after it was made" if hashes.now(path, made) != made.digest else None


def all_results(folders: list[str], root: Path) -> list[str]:
    """Paths below ``folders`` of all outputs, and of outputs that are gone and have left their records."""
    return sorted({*outputs(folders, root), *_recorded(folders, root)})


def removed_results(folders: list[str], root: Path = Path()) -> list[str]:
    """Paths below ``folders`` of results that were removed as configured."""
    return sorted(path for path in _recorded(folders, root) if removed(path, root) is not None)


def _recorded(folders: list[str], root: Path) -> Iterator[str]:
    return (
        path.relative_to(root).as_posix().removesuffix(SUFFIX)
        for folder in folders
        for path in (root / folder).rglob("*" + SUFFIX)
    )


def outputs(folders: list[str], root: Path = Path()) -> Iterator[str]:
    """Paths below ``folders`` of all files, and of the folders that have one record as a whole.

    Records, temporary files and the members of these folders are left out.
    """
    return (path for path, is_output in entries(folders, root) if is_output)


def entries(folders: list[str], root: Path = Path()) -> Iterator[tuple[str, bool]]:
    """Paths below ``folders``, each with whether it is an output (``outputs``).

    The others are hidden files and folders, and links to folders. Nobody looks into these.
    """
    for folder in folders:
        for parent, names, files in os.walk(root / folder):
            inside = Path(parent).relative_to(root).as_posix()
            present = set(files)
            units = {name for name in names if name + SUFFIX in present}
            links = {name for name in names if name not in units and Path(parent, name).is_symlink()}
            hidden = {name for name in names if name.startswith(".")}
            for name in sorted(units.union(files, links, hidden)):
                if not name.endswith(SUFFIX):
                    yield f"{inside}/{name}", not name.startswith(".") and name not in links
            names[:] = [name for name in names if name not in units | hidden]


def reconcile(workflow: "Workflow", folders: list[str]) -> Reconciled:
    """Make Snakemake's metadata of everything below ``folders`` agree with the records."""
    from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord

    metadata = _metadata(workflow)
    remembered = JsonCache(FOLDER / "hashes.json")
    order_only = _order_only(workflow)
    found, verified, first_made = [], [], {}
    for path, record, doubt in survey(folders, Hashes(Path(), remembered), order_only):
        if record is None or removed(path) is None:
            found.append(path)
        if record and not doubt:
            verified.append(path)
            if time := _first_made(path, record, order_only.get(record.rule, set())):
                first_made[path] = time
        wanted: dict[str, Any] = {"params": [f"{path} {doubt}"]}
        if record and not doubt:
            wanted["params"] = _as_snakemake(record.params)
        if record:
            wanted["input"] = sorted(entry.path for entry in record.inputs)
        # A folder with unrecorded files may itself be an output whose record is lost.
        for output in [path, *_parents(path, folders)] if doubt == NO_RECORD else [path]:
            known = metadata._read_record(output)
            if known is None or any(known[key] != value for key, value in wanted.items()):
                checksums = _checksums(record.inputs) if record else {}
                values = wanted | {"rule": record and record.rule, "input_checksums": checksums}
                fresh = MetadataRecord(
                    record_format_version=RECORD_FORMAT_VERSION, incomplete=False, **values
                )
                metadata._write_record(output, fresh)
    for path in metadata._filter_incomplete_keys(verified):
        metadata._unmark_incomplete(path)
    remembered.save()
    return Reconciled(found, first_made)


def _first_made(path: str, record: Record, order_only: Collection[str]) -> int | None:
    """When a result that was made again was made first, in nanoseconds. None if it was made once.

    None also if an input is newer than that, because then Snakemake would make the result in every run.
    """
    before = earlier(path, record)
    if before is None or not Path(path).exists():
        return None
    read = [_time(entry.path) for entry in record.inputs if entry.name not in order_only]
    return before.modified if all(time <= before.modified for time in read) else None


def _time(path: str) -> int:
    """When a file or folder was made, in nanoseconds, as Snakemake sees it. 0 if it is gone."""
    marker = Path(path, IGNORED)
    place = marker if marker.exists() else Path(path)
    return place.stat().st_mtime_ns if place.exists() else 0


def _checksums(inputs: list[RecordedFile]) -> dict[str, str]:
    """Path -> checksum of the inputs whose content Snakemake itself compares.

    It compares no folders, and no files that are large enough for a tree hash.
    """
    compared = [entry for entry in inputs if is_plain(entry.digest) and not Path(entry.path).is_dir()]
    return {entry.path: f"sha256:{entry.digest}" for entry in compared}


def _as_snakemake(params: Mapping[str, Any]) -> list[str]:
    """Params as Snakemake keeps them: their texts, without names.

    This is why the settings of a rule are one dict, and not many params.
    """
    return sorted(repr(value) for value in params.values())


def _parents(path: str, folders: list[str]) -> list[str]:
    """The folders between an output and the one of ``folders`` that holds it."""
    return [
        parent.as_posix()
        for parent in Path(path).parents
        if any(Path(folder) in parent.parents for folder in folders)
    ]


def _order_only(workflow: "Workflow") -> dict[str, set[str]]:
    """Rule -> names of its ``ancient`` inputs, which only have to exist."""
    found: dict[str, set[str]] = {}
    for rule in workflow.rules:
        for name, files in rule.input.items():
            listed = files if isinstance(files, list) else [files]
            if any(getattr(file, "flags", {}).get("ancient") for file in listed):
                found.setdefault(rule.name, set()).add(name)
    return found


def _metadata(workflow: "Workflow") -> Any:
    """Snakemake's store of metadata, of the kind that this run uses."""
    from snakemake.persistence.db import DbPersistence
    from snakemake.persistence.file import FilePersistence
    from snakemake.settings.enums import PersistenceBackend

    if workflow.workflow_settings.persistence_backend is PersistenceBackend.DB:
        return DbPersistence(nolock=True, db_url=workflow.workflow_settings.persistence_backend_db_url)
    return FilePersistence(nolock=True)
