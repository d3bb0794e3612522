"""Find and delete results that no config needs any more (``crossdiff gc``).

The plans of the configs say what is needed. Only what Crossdiff made is deleted: results that are still what
their records say, records whose result is gone, and what killed jobs left.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from crossdiff.config.pairs import KEPT_NAMES
from crossdiff.errors import UserError
from crossdiff.provenance.hashing import IGNORED, Hashes
from crossdiff.provenance.records import RESULTS, record_path
from crossdiff.provenance.scratch import CACHES, is_own
from crossdiff.provenance.storage import is_temporary, temporary_path
from crossdiff.provenance.trust import all_results, entries, not_as_made, record_or_doubt

ANSWERS = f"{RESULTS}/.answers"
CHECKPOINT = "checkpoint."  # after their dots, files of an unfinished training begin with this
WAITING = ".left"  # the folder of a training whose results its job has not taken yet (crosscoders.handover)


class Unneeded(NamedTuple):
    """A result that no config needs, or what a killed job left."""

    path: str  # below results
    size: int  # bytes on disk, with its record
    group: str  # the highest folder in which nothing is needed, or the folder that it shares with needed ones
    configs: tuple[str, ...] = ()  # the config files that its record names


class Left(NamedTuple):
    """A file or folder that no plan names and that is left alone."""

    path: str
    reason: str


class Found(NamedTuple):
    """What no plan names."""

    unneeded: list[Unneeded]
    left: list[Left]


def find(root: Path, needed: set[str], hashes: Hashes) -> Found:
    """Compare everything below results with ``needed``: the inputs and outputs of all jobs of all plans.

    Links to folders are not followed. The one exception is the link to the caches of this checkout. A file is
    read only if its stamp is not that of its record.
    """
    folders = [RESULTS, CACHES] if is_own(root) else [RESULTS]
    around = {str(parent) for path in needed for parent in PurePosixPath(path).parents}
    found = Found([], [])

    def add(path: str, configs: tuple[str, ...] = ()) -> None:
        found.unneeded.append(Unneeded(path, _size(root / path), _group(root, path, around), configs))

    for path in all_results(folders, root):
        if _is_needed(path, needed, around):
            continue
        record = record_or_doubt(path, root)
        if isinstance(record, str):
            found.left.append(Left(path, record))
        elif _exists(root / path) and (doubt := not_as_made(path, record, hashes)):
            found.left.append(Left(path, doubt))
        else:
            add(path, tuple(record.run["config"]))
    for path, is_output in entries(folders, root):
        if is_output or _is_needed(path, needed, around):
            continue
        if _is_debris(path, needed):
            add(path)
        elif reason := _reason_to_leave(path, folders):
            found.left.append(Left(path, reason))
    return found


def _is_needed(path: str, needed: set[str], around: set[str]) -> bool:
    """Whether plans name the path, a folder that contains it, or something in it."""
    parents = map(str, PurePosixPath(path).parents)
    return path in needed or path in around or not needed.isdisjoint(parents)


def _is_debris(path: str, needed: set[str]) -> bool:
    """Whether a killed job left a hidden file or folder that no job of a plan will take up."""
    place = PurePosixPath(path)
    if _is_of_a_training(place.name):
        return not any(PurePosixPath(other).parent == place.parent for other in needed)
    return is_temporary(place.name)


def _is_of_a_training(name: str) -> bool:
    return name.lstrip(".").startswith(CHECKPOINT) or name == WAITING


def _reason_to_leave(path: str, folders: list[str]) -> str | None:
    """Why something that is no result stays. None if that goes without saying."""
    name = PurePosixPath(path).name
    if path in folders or name == IGNORED or _is_of_a_training(name):
        return None
    if path == ANSWERS:
        return "holds answers of language models, which all runs share"
    return "is hidden" if name.startswith(".") else "is a link to a folder"


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _size(path: Path) -> int:
    """Bytes of a file or folder and of its record. Links count as themselves."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    files = [place for place in (path, record_path(path), *inside) if _exists(place)]
    return sum(place.lstat().st_size for place in files if place.is_symlink() or not place.is_dir())


def _group(root: Path, path: str, around: set[str]) -> str:
    """The highest folder around ``path`` in which nothing is needed; its own folder if there is none.

    It is not higher than the folder of a pair, model or tokenizer.
    """
    is_folder = (root / path).is_dir() and not PurePosixPath(path).name.startswith(".")
    group = PurePosixPath(path) if is_folder else PurePosixPath(path).parent
    top = {RESULTS, *(f"{RESULTS}/{name}" for name in KEPT_NAMES), *around}
    while str(group) not in top and str(group.parent) not in top:
        group = group.parent
    return str(group)


def delete(root: Path, unneeded: list[Unneeded], check: Callable[[], None]) -> None:
    """Delete results, then their records, then folders that are empty after that.

    ``check`` raises UserError if a run has begun. It is asked before each deletion. A kill between a result
    and its record leaves a record: audit says that the file is missing, and the next call removes the record.
    Raises UserError for what can't be deleted.
    """
    for result in unneeded:
        check()
        try:
            _remove(root / result.path)
            record_path(root / result.path).unlink(missing_ok=True)
            _remove_empty(root, PurePosixPath(result.path).parents)
        except OSError as error:
            told = f"can't be deleted ({error.strerror}); make it writable, then call it again"
            raise UserError(f"{result.path}: {told}; what came before it is deleted") from None


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder. A folder goes as a whole: it loses its name first."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path if is_temporary(path.name) else temporary_path(path)
    path.rename(aside)
    shutil.rmtree(aside)


def _remove_empty(root: Path, folders: Iterable[PurePosixPath]) -> None:
    """Delete folders, innermost first, up to the first that holds something or is a link."""
    for folder in folders:
        place = root / folder
        if str(folder) == RESULTS or place.is_symlink() or any(place.iterdir()):
            return
        place.rmdir()
