"""Snakemake's lock: while it is there, a run may read and write results."""

from pathlib import Path

from crossdiff.errors import UserError

LOCKS = Path(".snakemake/locks")


def refuse_while_snakemake_runs(root: Path) -> None:
    """Raise UserError if a run in ``root`` holds Snakemake's lock, as its jobs read and write results."""
    if lock := next((root / LOCKS).glob("*"), None):
        todo = "wait until it ends, or give the command of a killed run Snakemake's option --unlock"
        raise UserError(f"{lock}: Snakemake runs in this folder; {todo}")
