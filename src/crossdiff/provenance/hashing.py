"""SHA-256 of files and folders, and stamps: what tells without reading that a file is still the one that was hashed.

Torch-free: the Snakefile and the command line import this module.
"""

import hashlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError

IGNORED = ".snakemake_timestamp"  # Snakemake writes it into folders after their job


class Content(NamedTuple):
    """What a file or folder holds."""

    sha256: str
    size: int  # bytes
    stamp: str
    files: dict[str, str] | None = None  # of a folder: member -> sha256


def members(folder: Path) -> list[Path]:
    """The files of a folder, at any depth, sorted by their path."""
    return sorted((path for path in folder.rglob("*") if path.is_file() and path.name != IGNORED), key=lambda path: path.as_posix())


def stamp(path: str | Path) -> str | None:
    """Size, modification time, inode and change time of a file, or a digest of these for a folder's files. None where there is nothing.

    The change time can't be set by hand: an edit in place is seen even if it restores the modification time.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return _file_stamp(path)
        lines = [f"{_file_stamp(member)}  {member.relative_to(path).as_posix()}\n" for member in members(path)]
    except FileNotFoundError:
        return None
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def _file_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}.{status.st_ctime_ns}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: str | Path) -> Content:
    """Hash a file, or a folder as the SHA-256 of its ``sha256sum`` listing, sorted by path. Raises UserError when it is missing."""
    path = Path(path)
    before = stamp(path)  # taken first: a change while it is read shows when stamps are compared later
    if before is None:
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        return Content(file_sha256(path), path.stat().st_size, before)
    files = {member.relative_to(path).as_posix(): file_sha256(member) for member in members(path)}
    size = sum(member.stat().st_size for member in members(path))
    return Content(folder_sha256(files), size, before, files)


def folder_sha256(files: dict[str, str]) -> str:
    """SHA-256 of a folder from those of its members."""
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


class Hashes:
    """Present SHA-256 of files below ``root``. Reads only what has a new stamp; with ``deep``, everything, once.

    ``remembered`` maps paths to (stamp, SHA-256) of files whose stamp is not that of their record: after a copy, say.
    """

    def __init__(self, root: Path, remembered: MutableMapping[str, Any], deep: bool = False) -> None:
        self.root, self.remembered, self.deep = root, remembered, deep
        self._stamps: dict[str, str | None] = {}
        self._known: dict[str, str] = {}

    def now(self, path: str, *known: Content) -> str | None:
        """SHA-256 of what ``path`` holds now, None if it is missing. ``known``: what records say of it, with stamps."""
        if path not in self._stamps:
            self._stamps[path] = stamp(self.root / path)
        found = self._stamps[path]
        if found is not None and path not in self._known:
            candidates = [] if self.deep else [*((entry.stamp, entry.sha256) for entry in known), self.remembered.get(path, ("", ""))]
            sha256 = next((sha256 for stamped, sha256 in candidates if stamped == found), None)
            self._known[path] = sha256 or self._read(path)
        return found and self._known[path]

    def _read(self, path: str) -> str:
        read = content(self.root / path)
        self.remembered[path] = (read.stamp, read.sha256)
        return read.sha256
