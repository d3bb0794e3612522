"""Check the folders that a run writes to, before Snakemake looks into them. Torch-free."""

from pathlib import Path

from crossdiff.errors import UserError

WRITTEN = ("results", "logs")


def check_folders(root: Path = Path()) -> None:
    """Raise UserError if a file, or a link to nowhere, has the name of a folder that a run writes to."""
    for name in WRITTEN:
        path = root / name
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{name}: found a link to {path.readlink()}, which is not there; make that folder"
            )
        if path.exists() and not path.is_dir():
            raise UserError(f"{name}: found a file, allowed: a folder, or nothing; move the file elsewhere")
