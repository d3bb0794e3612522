"""What was found out before, in JSON files below .snakemake/crossdiff: it saves time, and nothing else depends on it."""

import json
from pathlib import Path
from typing import Any

from crossdiff.provenance.storage import atomic_path

FOLDER = Path(".snakemake/crossdiff")


class JsonCache(dict[str, Any]):
    """A dictionary that starts with what a file holds, empty where that can't be read, and can be saved again."""

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
        """Write the file if anything is new; where the folder can't be written to, the next process has to find out again."""
        if self._changed:
            try:
                with atomic_path(self.path) as temporary:
                    temporary.write_text(json.dumps(self))
            except PermissionError:
                return
            self._changed = False
