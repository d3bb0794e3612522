"""Look at the first records of local files, so that a wrong field is told before anything is fetched or
computed.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

from crossdiff.config import Dataset
from crossdiff.config.text_files import ending
from crossdiff.errors import UserError
from crossdiff.texts.files import records
from crossdiff.texts.formats import FIELDS
from crossdiff.texts.unusable import Unusable

FIRST = 20  # records that are looked at; some of them may be odd
# Endings of files that hold one record after another, or name their columns first.
STREAMED = (".jsonl", ".ndjson", ".csv", ".parquet")


def check_fields(datasets: Mapping[str, Dataset]) -> None:
    """Raise UserError if the first records of a local file all lack the field that its data set reads.

    Reads the first records of files that hold one after another, and the names of columns of a .parquet file.
    Other files, and records that are no mapping, are left to the job that reads them.
    """
    for name, dataset in datasets.items():
        field = dataset.field or FIELDS.get(dataset.format)
        if field is None:
            continue
        for path in dataset.local_files(f"datasets.{name}"):
            there = _fields(Path(path), field)
            if there is not None and field not in there:
                found = f"the first record of {path} has no {field!r}; found: {', '.join(there) or 'nothing'}"
                raise UserError(f"datasets.{name}.field: {found}; name one of these fields")


def _fields(path: Path, field: str) -> list[str] | None:
    """The fields of the first record, or of an early one with ``field``; None if they can't be told at a
    glance.
    """
    kind, compression = ending(path.name)
    if kind not in STREAMED or not path.is_file():
        return None
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq  # slow to import

            return None if compression else list(pq.read_schema(path).names)
        with path.open("rb") as file:
            first = [record for record, _ in itertools.islice(records(file, path.name), FIRST)]
    except (OSError, ValueError, UserError):
        return None  # the job that reads the file says what is wrong with it, and where
    read = [record for record in first if not isinstance(record, Unusable)]
    if not read or not all(isinstance(record, Mapping) for record in read):
        return None
    return list(map(str, next((record for record in read if field in record), read[0])))
