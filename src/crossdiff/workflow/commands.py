"""Complete commands that a user can paste into a shell in the current folder. Torch-free.

In a checkout a run is ``snakemake``, elsewhere and with the library of a wheel ``crossdiff run``.
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from crossdiff.provenance.code import home

DEFAULT_CONFIG = Path("config.yaml")


def run(configs: Sequence[Path], *targets: str) -> str:
    """Return the command that runs these configs: the given targets, or everything."""
    if home(Path()) != Path():
        return shlex.join([*_program("crossdiff"), "run", *targets, *_named(configs)])
    # Targets come first, because the option takes every word that follows.
    return shlex.join([*_program("snakemake"), *targets, "--configfile", *map(str, configs)])


def crossdiff(command: str, configs: Sequence[Path], *options: str) -> str:
    """Return a command of ``crossdiff`` for these configs."""
    return shlex.join([*_program("crossdiff"), command, *_named(configs), *options])


def _named(configs: Sequence[Path]) -> list[str]:
    """The options of ``crossdiff`` that name configs. ``config.yaml`` is its default."""
    if list(configs) == [DEFAULT_CONFIG]:
        return []
    return [part for path in configs for part in ("--configfile", str(path))]


def login() -> str:
    """Return the command that logs in to the hub."""
    return shlex.join([*_program("hf"), "auth", "login"])


def _program(name: str) -> list[str]:
    """Return the path of a program of this Python, or its bare name."""
    path = Path(shutil.which(name, path=Path(sys.executable).parent) or name)
    return [str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)]
