"""Look at the first record of local files, so that a wrong field is told before anything is fetched or
computed.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from crossdiff.config import Dataset
from crossdiff.errors import UserError

DEFAULTS = {"text": "text", "messages": "messages"}  # format -> the field that it reads if none is set


def check_fields(datasets: Mapping[str, Dataset]) -> None:
    """Raise UserError if the first record of a local file lacks the field that its data set reads.

    Reads one line of a .jsonl file, and the names of columns of a .parquet file. Other files, and records
    that are no mapping, are left to the job that reads them.
    """
    for name, dataset in datasets.items():
        field = dataset.field or DEFAULTS.get(dataset.format)
        for path in dataset.files or []:
            there = _fields(Path(path).expanduser()) if field else None
            if there is not None and field not in there:
                found = f"the first record of {path} has no {field!r}; found: {', '.join(there) or 'nothing'}"
                raise UserError(f"datasets.{name}.field: {found}; name one of these fields")


def _fields(path: Path) -> list[str] | None:
    """The fields of a file's first record; None where they can't be told at a glance."""
    if not path.is_file():
        return None
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq  # slow to import

            return list(pq.read_schema(path).names)
        if path.suffix != ".jsonl":
            return None
        with path.open(encoding="utf-8-sig") as lines:
            record = json.loads(next((line for line in lines if line.strip()), ""))
    except (OSError, ValueError):
        return None  # the job that reads the file says what is wrong with it, and where
    return list(map(str, record)) if isinstance(record, Mapping) else None
