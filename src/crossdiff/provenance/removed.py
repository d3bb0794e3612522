"""Results that were removed as configured, and results that were made again after that.

``activations.keep: false`` removes a cache once everything that reads it is made. The cache's record stays
and says so. It tells whether what was made from the cache is still true.

A later run may need the cache again, for one more crosscoder. The same job then makes it: same rule,
settings, code and inputs, so its record has the same id. On one CPU, with as many threads, it makes the same
bytes. A GPU or another CPU may round differently. What was made from the first cache stays valid in both
cases. The new record lists the digests of the earlier caches, so results that were made from them are still
recognised.

Torch-free, because the Snakefile imports this module.
"""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.provenance.hashing import Hashes
from crossdiff.provenance.records import (
    Record,
    RecordedFile,
    RecordError,
    read_record,
    record_path,
    write_record,
)

REMOVED, AGAIN = "removed", "made_again"  # keys of Record.run


class Earlier(NamedTuple):
    """What a job has made under one path, before its result was removed for the last time."""

    digests: frozenset[str]
    modified: int  # when it was made for the first time: nanoseconds, as a file's modification time


def remove(path: str | Path) -> None:
    """Remove a result and keep its record, which says so.

    The record is written first. So a kill leaves no result that seems lost. Raises RecordError for a result
    without a readable record.
    """
    path = Path(path)
    record = read_record(path)
    values = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "modified": path.stat().st_mtime_ns}
    write_record(path, record._replace(run=record.run | {REMOVED: values}))
    path.unlink()


def removed(path: str | Path, root: Path = Path()) -> Record | None:
    """The record of a result that was removed as configured. None if the result is there, or was lost."""
    place = root / path
    record = None if place.exists() else _known(place)
    return record if record is not None and REMOVED in record.run else None


def _known(place: Path) -> Record | None:
    """The record of a result, read once. None if there is none that can be read."""
    try:
        changed = record_path(place).stat().st_mtime_ns
    except OSError:
        return None
    return _read(place, changed)


@cache
def _read(place: Path, _changed: int) -> Record | None:
    try:
        return read_record(place)
    except RecordError:
        return None


def earlier(path: str, record: Record) -> Earlier | None:
    """What the job of ``record`` made under ``path`` before. None if nothing of it was removed."""
    gone, made = record.run.get(REMOVED), record.output(path)
    again = record.run.get(AGAIN)
    known = [again] if again else []
    if gone and made:
        known.append({"digests": [made.digest], "modified": gone["modified"]})
    digests = frozenset(digest for values in known for digest in values["digests"])
    return Earlier(digests, known[0]["modified"]) if known else None


def made_again(path: str, record: Record | None, identity: str) -> dict[str, Any]:
    """What the record of a result has to say if its job makes it again: an entry of ``Record.run``.

    ``record`` is that of the removed result. Empty if there is none, or if its job was another than
    ``identity``, the id of the new record.
    """
    before = earlier(path, record) if record is not None and record.id == identity else None
    if before is None:
        return {}
    return {AGAIN: {"digests": sorted(before.digests), "modified": before.modified}}


def input_changed(entry: RecordedFile, hashes: Hashes) -> bool:
    """Whether an input differs from what the job read.

    False if it was lost, because nothing is known then. An input that was removed as configured differs if
    another job made it since. An input that its job made again with other bits does not differ.
    """
    now = hashes.now(entry.path, entry)
    if now == entry.digest:
        return False
    if now is None:
        record = removed(entry.path, hashes.root)
    else:
        record = _known(hashes.root / entry.path)
        made = record and record.output(entry.path)
        if made is None or hashes.now(entry.path, made) != made.digest:
            return True
    if record is None:
        return False
    before = earlier(entry.path, record)
    return before is None or entry.digest not in before.digests


def has_other_bits(entry: RecordedFile, hashes: Hashes) -> bool:
    """Whether an input is one that was made again and whose bits are not those that were read."""
    return hashes.now(entry.path, entry) not in (entry.digest, None) and not input_changed(entry, hashes)
