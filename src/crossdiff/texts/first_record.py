"""Look at the first record of local files, so that a wrong field is told before anything is fetched or
computed.
"""

from collections.abc import Mapping
from pathlib import Path

from crossdiff.config import Dataset
from crossdiff.config.text_files import ending
from crossdiff.errors import UserError
from crossdiff.texts.files import records

DEFAULTS = {"text": "text", "messages": "messages"}  # format -> the field that it reads if none is set
# Endings of files that hold one record after another, or name their columns first.
STREAMED = (".jsonl", ".ndjson", ".csv", ".parquet")


def check_fields(datasets: Mapping[str, Dataset]) -> None:
    """Raise UserError if the first record of a local file lacks the field that its data set reads.

    Reads the first record of files that hold one after another, and the names of columns of a .parquet file.
    Other files, and records that are no mapping, are left to the job that reads them.
    """
    for name, dataset in datasets.items():
        field = dataset.field or DEFAULTS.get(dataset.format)
        for path in dataset.local_files(f"datasets.{name}") if field else []:
            there = _fields(Path(path))
            if there is not None and field not in there:
                found = f"the first record of {path} has no {field!r}; found: {', '.join(there) or 'nothing'}"
                raise UserError(f"datasets.{name}.field: {found}; name one of these fields")


def _fields(path: Path) -> list[str] | None:
    """The fields of a file's first record; None where they can't be told at a glance."""
    kind, compression = ending(path.name)
    if kind not in STREAMED or not path.is_file():
        return None
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq  # slow to import

            return None if compression else list(pq.read_schema(path).names)
        with path.open("rb") as file:
            record, _ = next(records(file, path.name), (None, 0))
    except (OSError, ValueError, UserError):
        return None  # the job that reads the file says what is wrong with it, and where
    return list(map(str, record)) if isinstance(record, Mapping) else None
