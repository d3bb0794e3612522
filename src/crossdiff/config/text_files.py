"""Local files of texts: which endings are read, and which files a folder, a glob or ``~`` stands for."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from crossdiff.errors import UserError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt", ".yaml", ".yml")
COMPRESSIONS = (".gz", ".zst")
ALLOWED = f"{', '.join(ENDINGS)}, each also with {' or '.join(COMPRESSIONS)}"


def ending(name: str) -> tuple[str, str]:
    """(ending, compression) of a file's name in lower case. The compression is empty if there is none."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return suffixes[-1] if suffixes else "", compression


def is_readable(name: str) -> bool:
    """Whether files with this name's ending are read."""
    return ending(name)[0] in ENDINGS


def check_ending(name: str) -> str:
    """Return ``name`` if its ending is read, or if it may stand for other files: a folder or a glob.

    Raises ValueError for an unknown ending.
    """
    found, compression = ending(name)
    may_stand_for_others = glob.has_magic(found) or not (found or compression or Path(name).is_file())
    if may_stand_for_others or found in ENDINGS or Path(os.path.expanduser(name)).is_dir():  # noqa: PTH111
        return name
    raise ValueError(f"found {name}, unknown ending {found + compression!r}, allowed: {ALLOWED}")


def expanded(named: list[str], key: str) -> list[str]:
    """The files that the entries of ``key`` stand for, in the order of the entries.

    The files of a folder or glob are sorted by path. A folder stands for the readable files in it, at any
    depth, without hidden ones. An entry that is neither a folder nor a glob stands for itself, also if there
    is no such file. Links are followed, and a file that a folder or glob reaches on several ways counts once.

    Raises UserError for a folder or glob without readable files, for a folder whose files have different
    endings, for a file that is named twice, and for what is no plain file.
    """
    found: dict[str, str] = {}  # where a file really is -> its path
    for entry in named:
        for real, path in _once(_files(entry, key)).items():
            if real in found:
                known = "" if found[real] == path else f", also as {found[real]}"
                raise UserError(f"config: {key}: {path} is named twice{known}; name each file once")
            found[real] = path
    return list(found.values())


def _once(paths: list[str]) -> dict[str, str]:
    """Where a file really is -> the first of ``paths`` that leads there."""
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), path)
    return found


def _files(entry: str, key: str) -> list[str]:
    try:
        path = Path(entry).expanduser()
    except RuntimeError as error:
        raise UserError(f"config: {key}: found {entry}, there is no such user") from error
    if path.is_dir():
        return _of_folder(path, key)
    if path.exists() and not path.is_file():
        raise UserError(f"config: {key}: found {path}, which is no plain file; copy its texts into one")
    if path.exists() or not glob.has_magic(entry):
        return [str(path)]
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207, Path.glob takes no absolute pattern
    paths = sorted(name for name in found if not Path(name).is_dir())
    if not paths:
        raise UserError(f"config: {key}: found {entry}, no file has such a name")
    for name in paths:
        if not is_readable(name):
            raise UserError(f"config: {key}: found {entry}, which matches {name}; allowed endings: {ALLOWED}")
    return _there(paths, entry, key)


def _there(paths: list[str], entry: str | Path, key: str) -> list[str]:
    for path in paths:
        if not Path(path).is_file():  # is_file follows links
            raise UserError(f"config: {key}: found {entry}, in which {path} leads to no plain file")
    return paths


def _of_folder(folder: Path, key: str) -> list[str]:
    inside = sorted(_inside(folder, set()))
    paths = [str(path) for path in inside if is_readable(path.name)]
    kinds = sorted({ending(path)[0] for path in paths})
    if any(path.suffix == ".arrow" for path in inside):
        advice = "load it with datasets.load_from_disk, and write it with to_parquet"
        raise UserError(f"config: {key}: found {folder}, which holds .arrow files; {advice}")
    if not kinds:
        raise UserError(f"config: {key}: found {folder}, a folder without files that end in {ALLOWED}")
    if len(kinds) > 1:
        advice = f"name those to read with a glob, such as {folder}/**/*{kinds[0]}"
        raise UserError(f"config: {key}: found {folder}, which holds {' and '.join(kinds)} files; {advice}")
    return _there(paths, folder, key)


def _inside(folder: Path, seen: set[str]) -> Iterator[Path]:
    """The files of a folder at any depth, without hidden ones. A folder that several links lead to counts
    once.
    """
    if os.path.realpath(folder) in seen:
        return
    seen.add(os.path.realpath(folder))
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _inside(path, seen)
        else:
            yield path
