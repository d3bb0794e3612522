"""Files that are either whole or absent: everything is written under a temporary name and renamed when complete."""

import errno
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Content, content, stamp

if TYPE_CHECKING:
    import pandas as pd


class CurrentJob(NamedTuple):
    """What writers know of the job that they write for."""

    record: str  # id of its record
    outputs: frozenset[str]
    written: dict[str, Content]  # output -> what was hashed before it got its final name


# Set by ``job`` while a script runs; None elsewhere: in tests, on the command line.
current_job: CurrentJob | None = None


def current_record() -> str:
    """The id of the record of the job that runs: it digests rule, settings, code and inputs."""
    return current_job.record


def record_mark() -> dict[str, str]:
    """One key and value for a file's metadata: by them a result that was mailed still leads to its record. Empty outside a job."""
    return {"crossdiff-record": f"crossdiff-record:{current_job.record}"} if current_job else {}


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``final``; on success it replaces ``final``, on failure it is removed.

    The name is unique, so two writers of one output cannot mix their bytes; the last to finish wins with a whole file.
    Works for files and for folders. Within a job, an output is hashed before it gets its name. Raises UserError when the disk is full.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{final.suffix}")
    try:
        yield temporary
        hashed = content(temporary) if current_job and str(final) in current_job.outputs else None
        if temporary.is_dir():
            _replace_folder(temporary, final)
        else:
            temporary.replace(final)
        if hashed:
            current_job.written[str(final)] = hashed._replace(
                stamp=stamp(final)
            )  # a rename is a change of time
    except OSError as error:
        if _disk_is_full(error, final.parent):
            free = shutil.disk_usage(final.parent).free
            raise UserError(
                f"{final}: the disk is full ({free / 1e6:,.0f} MB left); free some space and run again"
            ) from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _replace_folder(temporary: Path, final: Path) -> None:
    """Put a folder in the place of another, which a rename alone can't; the old one is moved aside first, never half deleted."""
    aside = temporary.with_name(temporary.name + ".old")
    while True:
        try:
            final.rename(aside)
        except FileNotFoundError:
            pass
        try:
            temporary.rename(final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(aside, ignore_errors=True)  # another writer was faster: put its folder aside, too
    shutil.rmtree(aside, ignore_errors=True)


def _disk_is_full(error: OSError, folder: Path) -> bool:
    # HDF5 reports a failed write as a bare OSError whose text holds the errno.
    return error.errno == errno.ENOSPC or "errno = 28" in str(error) or "No space left" in str(error)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )


def write_csv(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV with six significant digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def write_parquet(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet."""
    table = table.copy(deep=False)
    table.attrs |= record_mark()  # pandas keeps these in the file's metadata
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: str | Path) -> Any:
    """A table (CSV or Parquet) as a data frame; the values of a JSON file."""
    import pandas as pd  # the Snakefile imports this module

    match Path(path).suffix:
        case ".csv":
            return pd.read_csv(path)
        case ".parquet":
            return pd.read_parquet(path)
        case _:
            return read_json(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError when it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
