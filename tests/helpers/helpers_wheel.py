"""A wheel of this repository, and a Python that has it in place of the checkout's library."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from conftest import ROOT, TREE

# What a build reads besides what a run reads.
BUILD = "LICENSE README.md pyproject.toml setup.py".split()


def source(folder: Path) -> Path:
    """Copy what a wheel is built from to ``folder``, so that nothing is built in the repository."""
    for name in [*TREE, *BUILD]:
        place, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, target, ignore=shutil.ignore_patterns("*.egg-info"))
        else:
            shutil.copy2(place, target)
    return folder


def build(folder: Path) -> Path:
    """Build a wheel below ``folder`` as pip does, and return its path."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=source(folder), check=True)
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment with the wheel. Its other packages are those of this Python.

    Returns the folder of its programs. They must be started without ``PYTHONPATH``.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # Python reads no .pth file of the folder that a .pth file names. So an editable install stays out.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    program = folder / "bin/crossdiff"
    start = f"#!{folder}/bin/python\nimport sys\nfrom crossdiff.cli import main\nsys.exit(main())\n"
    program.write_text(start)
    program.chmod(0o755)
    return folder / "bin"
