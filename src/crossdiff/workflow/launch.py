"""``crossdiff run``: Snakemake with the workflow of this checkout or wheel. Torch-free."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from crossdiff.provenance.code import home
from crossdiff.workflow.shipped import shipped


def start(configs: Sequence[Path], words: Sequence[str], profile: str | None) -> NoReturn:
    """Become Snakemake, which so gets Ctrl-C and gives the exit code.

    ``words`` are targets and options of Snakemake. ``profile`` names a folder with a ``config.yaml``, here or
    among the files that come with Crossdiff, or what else Snakemake knows as a profile.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(home(Path()) / "Snakefile")]
    if profile is not None:
        found = shipped(Path(profile) / "config.yaml")
        command += ["--profile", str(found.parent) if found.exists() else profile]
    # Targets come first, because --configfile takes every word that follows.
    command += [*words, "--configfile", *map(str, configs)]
    os.execv(command[0], command)
