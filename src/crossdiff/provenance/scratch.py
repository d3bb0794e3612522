"""Activation caches may lie on another file system, such as a cluster's scratch (``activations.folder``).

Then results/activations is a link to a folder there, so every path stays as it is. Each checkout has a folder
of its own, named after the checkout's path. So two checkouts can use one config and never mix their caches.
"""

import hashlib
import os
import re
from pathlib import Path

from crossdiff.provenance.records import RESULTS

CACHES = f"{RESULTS}/activations"
MADE = re.compile(r".*-[0-9a-f]{8}")  # names of checkouts' folders


def own_folder(folder: str, root: Path) -> Path:
    """Where the caches of the checkout ``root`` lie below ``folder``, the value of ``activations.folder``."""
    return Path(os.path.abspath(root / Path(folder).expanduser())) / _own_name(root)  # noqa: PTH100, no links


def _own_name(root: Path) -> str:
    place = root.resolve()
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def is_own(root: Path) -> bool:
    """Whether the caches of ``root`` lie behind a link that Crossdiff made for this checkout."""
    link = root / CACHES
    return link.is_symlink() and link.readlink().name == _own_name(root)


def is_of_another(root: Path) -> bool:
    """Whether that link was made for another checkout, of which this one is a copy."""
    link = root / CACHES
    return link.is_symlink() and bool(MADE.fullmatch(link.readlink().name)) and not is_own(root)


def walked(root: Path) -> list[str]:
    """Folders that contain all results of ``root``. A walk follows no links, so the caches' link is named."""
    return [RESULTS, CACHES] if (root / CACHES).is_symlink() else [RESULTS]
