"""Files that come with Crossdiff, for runs in whatever folder (``crossdiff run``, or ``snakemake -s
elsewhere/Snakefile -d here``).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.provenance.code import ROOT
from crossdiff.workflow.commands import DEFAULT_CONFIG

# Keys of a config whose value is the path of a file, or a list of such paths.
PATH_KEYS = ("files", "chat_template", "requests", "catalogue", "sessions")


def shipped(path: str | Path, root: Path = Path()) -> Path:
    """A file of the repository: that below ``root``, else that of the checkout or wheel which the library
    belongs to.
    """
    return root / path if (root / path).exists() else ROOT / path


def config_files(named: Sequence[Path] | None) -> list[Path]:
    """The named configs: files here, or else in configs/ of what comes with Crossdiff.

    Without a name it is config.yaml in the current folder. Raises UserError if that is not there.
    """
    if not named and not DEFAULT_CONFIG.exists():
        raise UserError(f"{DEFAULT_CONFIG}: not there; crossdiff init writes one, --configfile names another")
    return [_of_run(path) for path in named or [DEFAULT_CONFIG]]


def _of_run(path: Path) -> Path:
    there = shipped(path)
    return there if path.parts[:1] == ("configs",) and there.exists() else path


def find_shipped(values: dict[str, Any], home: str | Path) -> None:
    """Let paths of a config that are not in the working folder name the files next to the Snakefile, in
    place.

    ``home`` is the folder of the Snakefile. In that folder itself nothing changes. So shipped configs, whose
    paths are relative to it, run from elsewhere.
    """
    if Path(home).samefile(Path()):
        return
    for key, value in values.items():
        if isinstance(value, dict):
            find_shipped(value, home)
        elif key in PATH_KEYS and isinstance(value, str):
            values[key] = _found(value, home)
        elif key in PATH_KEYS and isinstance(value, list):
            values[key] = [_found(path, home) if isinstance(path, str) else path for path in value]


def _found(path: str, home: str | Path) -> str:
    there = str(Path(os.path.relpath(home)) / path)
    return there if not Path(path).exists() and Path(there).exists() else path
