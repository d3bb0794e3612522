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
    """Fetch the wheel ``name==version`` to ``path``. Raises UserError when it can't be had or has another sha256."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            package,
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = sorted(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            reason = next(
                (line for line in reversed(result.stderr.splitlines()) if "ERROR" in line), "no wheel found"
            )
            raise UserError(f"package {package}: pip download failed ({reason.strip()})")
        with wheels[0].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UserError(f"package {package}: found sha256 {found}, the config allows only {sha256}")
        with atomic_path(path) as temporary:
            temporary.write_bytes(wheels[0].read_bytes())


def members(archive: str | Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every member that matches the glob, by name. Raises UserError when none does."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = sorted(fnmatch.filter(wheel.namelist(), pattern))
            if not names:
                raise UserError(f"{archive}: no member matches {pattern!r}")
            for name in names:
                yield name, wheel.read(name)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: not a wheel ({error})") from error
