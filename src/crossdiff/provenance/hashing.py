"""Digests and stamps of files and folders. A stamp shows without reading a file that it is unchanged.

- A file's digest is its SHA-256, as ``sha256sum`` prints it.
- A file above TREE_ABOVE bytes has a tree hash instead, so that many threads can hash it at once. This is
  TREE, then the SHA-256 of what ``split -b 64M --filter=sha256sum FILE`` prints: one line per part.
- A folder's digest is the SHA-256 of its listing, which has a line ``digest  path`` per file and is sorted by
  path. TREE stands before it if any of its files has a tree hash.
- Records older than tree hashes hold plain digests of everything (``plain=True``). The digest in a record
  says which kind to compare with.

Torch-free, because the Snakefile and the command line import this module.
"""

import hashlib
import os
from collections.abc import Iterable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from crossdiff.errors import UserError

IGNORED = ".snakemake_timestamp"  # Snakemake writes it into folders after their job
TREE = "tree64m:"  # stands for these values of PART and TREE_ABOVE; other values need another name
PART = 64 << 20  # bytes
# In bytes. Equals the profile's max-checksum-file-size, because Snakemake needs plain hashes up to that size.
TREE_ABOVE = 100_000_000
_BUFFER = 1 << 20  # bytes that a thread reads at a time


class Content(NamedTuple):
    """What a file or folder holds."""

    digest: str
    size: int  # bytes
    stamp: str
    files: dict[str, str] | None = None  # of a folder: member -> digest


class Known(Protocol):
    """The digest and stamp that a record has of a file. Content and RecordedFile have both."""

    @property
    def digest(self) -> str: ...

    @property
    def stamp(self) -> str: ...


def members(folder: Path) -> list[Path]:
    """The files of a folder, at any depth, sorted by their path."""
    return sorted(
        (path for path in folder.rglob("*") if path.is_file() and path.name != IGNORED),
        key=lambda path: path.as_posix(),
    )


def size(path: Path) -> int:
    """Size in bytes of a file, or of all files of a folder together."""
    return _bytes(members(path) if path.is_dir() else [path])


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def stamp(path: str | Path) -> str | None:
    """Size, modification time, inode and change time of a file, as text. None if it does not exist.

    For a folder it is a digest of the stamps of its files. The change time can't be set by hand, so an edit
    in place is seen even if it restores the modification time.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return _file_stamp(path)
        lines = [
            f"{_file_stamp(member)}  {member.relative_to(path).as_posix()}\n" for member in members(path)
        ]
    except FileNotFoundError:
        return None
    return _sha256(lines)[:32]


def _file_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}.{status.st_ctime_ns}"


def is_plain(digest: str) -> bool:
    """Whether a digest is a plain SHA-256, or a folder's digest made of plain ones only."""
    return not digest.startswith(TREE)


def file_sha256(path: Path) -> str:
    """Plain SHA-256 of a file of any size, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: str | Path, plain: bool = False, threads: int | None = None) -> Content:
    """Hash a file or folder.

    ``plain``: make no tree hashes. ``threads``: by default the number of cores that this process may use.
    Raises UserError if the file or folder is missing.
    """
    path = Path(path)
    before = stamp(path)  # taken before reading: a change during it shows when stamps are compared later
    if before is None:
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        [digest] = _digests([path], plain, threads)
        return Content(digest, _bytes([path]), before)
    inside = members(path)
    names = [member.relative_to(path).as_posix() for member in inside]
    files = dict(zip(names, _digests(inside, plain, threads), strict=True))
    listing = _sha256(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    digest = listing if all(map(is_plain, files.values())) else TREE + listing
    return Content(digest, _bytes(inside), before, files)


def _digests(paths: list[Path], plain: bool, threads: int | None) -> list[str]:
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        begun = [_begin(pool, path, plain) for path in paths]
        return [_joined([part.result() for part in parts]) for parts in begun]


def _begin(pool: ThreadPoolExecutor, path: Path, plain: bool) -> list[Future[str]]:
    """Start to compute the SHA-256 of a file, or of each of its parts."""
    length = path.stat().st_size
    if plain or length <= TREE_ABOVE:
        return [pool.submit(file_sha256, path)]
    return [pool.submit(_part_sha256, path, start) for start in range(0, length, PART)]


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else TREE + _sha256(f"{part}  -\n" for part in parts)


def _part_sha256(path: Path, start: int) -> str:
    found, buffer, left = hashlib.sha256(), memoryview(bytearray(_BUFFER)), PART
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (read := file.readinto(buffer[:left])):
            found.update(buffer[:read])  # releases the GIL, so other threads run meanwhile
            left -= read
    return found.hexdigest()


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Hashes:
    """Current digests of files below ``root``.

    Only files with a new stamp are read. With ``deep``, every file is read once. ``remembered`` maps paths to
    (stamp, digest) for files whose stamp is not that of their record, for example after a copy. In its keys,
    TREE stands before the path if the file was hashed without ``plain``.
    """

    def __init__(self, root: Path, remembered: MutableMapping[str, Any], deep: bool = False) -> None:
        self.root, self.remembered, self.deep = root, remembered, deep
        self._stamps: dict[str, str | None] = {}
        self._found: dict[str, str] = {}

    def now(self, path: str, known: Known | None = None) -> str | None:
        """Digest of what ``path`` holds now, or None if it is gone.

        It is a plain one if ``known``, the record of the file, has a plain one.
        """
        if path not in self._stamps:
            self._stamps[path] = stamp(self.root / path)
        if self._stamps[path] is None:
            return None
        plain = known is not None and is_plain(known.digest)
        key = path if plain else TREE + path
        if key not in self._found:
            self._found[key] = self._told(path, key, known) or self._read(path, key, plain)
        return self._found[key]

    def _told(self, path: str, key: str, known: Known | None) -> str | None:
        """The digest that the record or ``remembered`` has for the current stamp."""
        if self.deep:
            return None
        told = [*([(known.stamp, known.digest)] if known else []), self.remembered.get(key, ("", ""))]
        return next((digest for stamped, digest in told if stamped == self._stamps[path]), None)

    def _read(self, path: str, key: str, plain: bool) -> str:
        read = content(self.root / path, plain)
        self.remembered[key] = (read.stamp, read.digest)
        return read.digest
