"""Caches in JSON files below .snakemake/crossdiff. They save time, and results do not depend on them."""

import json
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.provenance.storage import atomic_path

FOLDER = Path(".snakemake/crossdiff")


class JsonCache(dict[str, Any]):
    """A dictionary that is read from a JSON file and can be saved to it. Empty if the file can't be read."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            super().__init__()
        self.path, self._changed = path, False

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._changed = True

    def save(self) -> None:
        """Write the file if anything is new. Does nothing if it can't be written, as in a read-only
        folder.
        """
        if self._changed:
            try:
                with atomic_path(self.path) as temporary:
                    temporary.write_text(json.dumps(self))
            except (OSError, UserError):  # read-only, or full: the next process finds out again
                return
            self._changed = False
