"""Files that are either whole or absent: each is written under a temporary name and renamed when complete."""

import errno
import glob
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Content, content, stamp

if TYPE_CHECKING:
    import pandas as pd


class CurrentJob(NamedTuple):
    """The job that writers write for."""

    record: str  # id of its record
    outputs: frozenset[str]
    written: dict[str, Content]  # output -> its content, hashed before it got its final name
    loaded: dict[str, dict[str, Any]]  # folder of each model that the job loaded -> what was loaded
    records: Mapping[str, str] = {}  # output -> id of its record, if they differ (``provenance.parts``)


# Of a new file. Python tells the umask only by changing it, so this is done once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)
USUAL_MODE = 0o666 & ~_UMASK

ASIDE = ".old"  # ends the temporary name of a folder that is being replaced

# Set by ``recording`` while a script runs. None elsewhere, as in tests and on the command line.
current_job: CurrentJob | None = None


def current_record() -> str:
    """The id of the running job's record, a digest of rule, settings, code and inputs.

    Raises RuntimeError if no job runs.
    """
    if current_job is None:
        raise RuntimeError("no job runs, so there is no record")
    return current_job.record


@contextmanager
def writing_for(record: str) -> Iterator[None]:
    """Inside, writers embed the id ``record`` of another job.

    What they write is no output of the running job.
    """
    global current_job
    before, current_job = current_job, CurrentJob(record, frozenset(), {}, {})
    try:
        yield
    finally:
        current_job = before


def record_mark(output: str | Path | None = None) -> dict[str, str]:
    """A key and value for a file's metadata, with the id of its record.

    By this id, audit finds the record of a file that was copied elsewhere. Empty if no job runs. ``output``
    tells which record is meant, in a job whose outputs have different ones.
    """
    if current_job is None:
        return {}
    record = current_job.records[str(output)] if current_job.records else current_job.record
    return {"crossdiff-record": f"crossdiff-record:{record}"}


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Give a temporary path next to ``final``. On success it replaces ``final``, on failure it is removed.

    Works for files and for folders. The temporary name is unique, so two writers of one output cannot mix
    their bytes: the last to finish wins, with a whole file. Within a job, an output is hashed before it gets
    its name. Raises UserError if the disk or a quota is full, and if the folder can't be written to.
    """
    job = current_job
    final = Path(final)
    temporary = temporary_path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _give_usual_mode(temporary)
        hashed = content(temporary) if job and str(final) in job.outputs else None
        if temporary.is_dir():
            _replace_folder(temporary, final)
        else:
            temporary.replace(final)
        # The stamp is taken again, because a rename sets the change time.
        if job and hashed and (renamed := stamp(final)):
            job.written[str(final)] = hashed._replace(stamp=renamed)
    except Exception as error:  # writers have errors of their own, such as SafetensorError
        if told := not_written(error, final):
            raise told from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _give_usual_mode(path: Path) -> None:
    """Let everybody read files whom the user's umask lets. Safetensors writes files for their owner alone."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file() and not file.is_symlink():
            mode = file.stat().st_mode
            if mode | USUAL_MODE != mode:
                file.chmod(mode | USUAL_MODE)


def temporary_path(final: Path) -> Path:
    """A new name next to ``final`` that nobody else uses."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{final.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder has a temporary name of ``atomic_path``."""
    found = [
        re.fullmatch(r"\.(.+)\.[0-9a-f]{8}(\.[^.]+)?", each) for each in {name, name.removesuffix(ASIDE)}
    ]
    return any(match and Path(match[1]).suffix == (match[2] or "") for match in found)


def remove_temporaries(final: str | Path) -> None:
    """Remove the files that killed writers of ``final`` left next to it. No writer may be alive."""
    final = Path(final)
    for left in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}{final.suffix}"):
        left.unlink(missing_ok=True)


def _replace_folder(temporary: Path, final: Path) -> None:
    """Put a folder in the place of another, which a rename alone can't do.

    The old folder is moved aside first, so it is never half deleted under its name.
    """
    aside = temporary.with_name(temporary.name + ASIDE)
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
            # Another writer was faster, so its folder is moved aside, too.
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def not_written(error: BaseException, path: Path) -> UserError | None:
    """What a user can do if ``error`` means that ``path`` could not be written. None for any other error."""
    numbers, folder = set(_numbers(error)), existing(path.parent)
    again = "and run again; what is finished stays"
    if errno.ENOSPC in numbers:
        free = shutil.disk_usage(folder).free / 1e6
        return UserError(f"{path}: the disk is full ({free:,.0f} MB left); free some space {again}")
    if errno.EDQUOT in numbers:
        return UserError(f"{path}: the disk quota is used up; free some of your space {again}")
    if numbers & {errno.EROFS, errno.EACCES, errno.EPERM} and not os.access(folder, os.W_OK):
        return UserError(f"{path}: the folder {folder} can't be written to; make it writable {again}")
    return None


def _numbers(error: BaseException | None) -> Iterator[int]:
    """The system's numbers of an error and of those that it came from. None come from a UserError."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno is not None:
            yield error.errno
        # HDF5 and safetensors give the number in the text alone.
        yield from map(int, re.findall(r"(?:errno = |os error )(\d+)", str(error)))
        error = error.__cause__ or error.__context__


def existing(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys. Raises ValueError for NaN and infinite numbers."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


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
    """Read a table (CSV or Parquet) as a data frame. Any other file is read as JSON (``read_json``)."""
    import pandas as pd  # not at the top, because the Snakefile imports this module

    match Path(path).suffix:
        case ".csv":
            return pd.read_csv(path)
        case ".parquet":
            return pd.read_parquet(path)
        case _:
            return read_json(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError if it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
