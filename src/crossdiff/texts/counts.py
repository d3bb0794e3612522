"""Counts of the records that were read for token shards: how many, skipped ones by reason, and notes.

They stand next to a shard and not in it. So a shard stays as it is when a record that can't be used is taken
out of the data set.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.provenance.storage import read_json


def read_counts(path: str | Path) -> dict[str, Any]:
    """What was read for one shard: its data set, and what ``unusable.Tally.counts`` gives.

    ``path`` is the file that ``tokenising.tokenise_shard`` wrote next to the shard. Raises UserError for
    another one.
    """
    return _part(path, "read")


def read_so_far(path: str | Path) -> dict[str, Any]:
    """What was read for this shard and all before it: records, skipped ones by reason, and examples.

    The shard has passed ``tokens.unusable``, which counts the same records. Raises UserError as
    ``read_counts`` does.
    """
    return _part(path, "so_far")


def _part(path: str | Path, key: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path)[key]
        return found
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: does not say what was read for a shard") from error


def added(paths: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Data set -> counts of everything that was read for these shards: records, skipped and notes.

    Raises UserError as ``read_counts`` does.
    """
    found: dict[str, dict[str, Any]] = {}
    for counts in map(read_counts, paths):
        of = found.setdefault(counts["dataset"], {"records": 0, "skipped": Counter(), "notes": Counter()})
        of["records"] += counts["records"]
        of["skipped"].update(counts["skipped"])
        of["notes"].update(counts["notes"])
    return {
        name: {**of, **{part: dict(sorted(of[part].items())) for part in ("skipped", "notes")}}
        for name, of in sorted(found.items())
    }
