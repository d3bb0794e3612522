"""Complete commands that a user can paste into a shell in the current folder. Torch-free."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def snakemake(configs: Sequence[Path], *targets: str) -> str:
    """Return the command that runs these configs: the given targets, or everything."""
    # Targets come first, because the option takes every word that follows.
    return shlex.join([*_program("snakemake"), *targets, "--configfile", *map(str, configs)])


def crossdiff(command: str, configs: Sequence[Path], *options: str) -> str:
    """Return a command of ``crossdiff`` for these configs."""
    named = [part for path in configs for part in ("--configfile", str(path))]
    return shlex.join([*_program("crossdiff"), command, *named, *options])


def login() -> str:
    """Return the command that logs in to the hub."""
    return shlex.join([*_program("hf"), "auth", "login"])


def _program(name: str) -> list[str]:
    """Return the path of a program of this Python, or its bare name."""
    path = Path(shutil.which(name, path=Path(sys.executable).parent) or name)
    return [str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)]
