"""Commands for the user, complete, as a shell reads them in the folder in which we are. Torch-free."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def snakemake(configs: Sequence[Path], *targets: str) -> str:
    """A run of these configs, of some targets or of everything."""
    return shlex.join(
        [*_program("snakemake"), *targets, "--configfile", *map(str, configs)]
    )  # the option takes all that follows


def crossdiff(command: str, configs: Sequence[Path], *options: str) -> str:
    """One of our own commands, for these configs."""
    return shlex.join(
        [
            *_program("crossdiff"),
            command,
            *(part for path in configs for part in ("--configfile", str(path))),
            *options,
        ]
    )


def login() -> str:
    """To the hub."""
    return shlex.join([*_program("hf"), "auth", "login"])


def _program(name: str) -> list[str]:
    """Of this Python's programs."""
    path = Path(shutil.which(name, path=Path(sys.executable).parent) or name)
    return [str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)]
