"""Local files of texts: which endings are read, and which files a folder, a glob or ``~`` stands for."""

import glob
from collections import Counter
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
    if may_stand_for_others or found in ENDINGS or Path(name).expanduser().is_dir():
        return name
    raise ValueError(f"found {name}, unknown ending {found + compression!r}, allowed: {ALLOWED}")


def expanded(named: list[str], key: str) -> list[str]:
    """The files that the entries of ``key`` stand for, in the order of the entries.

    The files of a folder or glob are sorted by path. A folder stands for the readable files in it, at any
    depth, without hidden ones. An entry that is neither a folder nor a glob stands for itself, also if there
    is no such file.

    Raises UserError for a folder or glob without readable files, for a folder whose files have different
    endings, and for a file that is named twice.
    """
    found = [path for entry in named for path in _files(entry, key)]
    twice = [path for path, times in Counter(found).items() if times > 1]
    if twice:
        raise UserError(f"config: {key}: {twice[0]} is named twice; name each file once")
    return found


def _files(entry: str, key: str) -> list[str]:
    path = Path(entry).expanduser()
    if path.is_dir():
        return _of_folder(path, key)
    if path.exists() or not glob.has_magic(entry):
        return [str(path)]
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207, Path.glob takes no absolute pattern
    paths = sorted(name for name in found if Path(name).is_file())
    if not paths:
        raise UserError(f"config: {key}: found {entry}, no file has such a name")
    for name in paths:
        if not is_readable(name):
            raise UserError(f"config: {key}: found {entry}, which matches {name}; allowed endings: {ALLOWED}")
    return paths


def _of_folder(folder: Path, key: str) -> list[str]:
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    visible = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    paths = sorted(path for path in visible if is_readable(path.name))
    kinds = sorted({ending(path.name)[0] for path in paths})
    if not kinds:
        raise UserError(f"config: {key}: found {folder}, a folder without files that end in {ALLOWED}")
    if len(kinds) > 1:
        advice = f"name those to read with a glob, such as {folder}/**/*{kinds[0]}"
        raise UserError(f"config: {key}: found {folder}, which holds {' and '.join(kinds)} files; {advice}")
    return [str(folder / path) for path in paths]
