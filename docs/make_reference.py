"""Write the reference pages that are made from code: `make reference`."""

import json
from collections.abc import Callable
from pathlib import Path

from crossdiff.config import reference

ROOT = Path(__file__).parents[1]
FILES: dict[str, Callable[[], str]] = {
    "docs/config.md": reference.markdown,
    "config.schema.json": lambda: json.dumps(reference.schema(), indent=2, ensure_ascii=False) + "\n",
}

if __name__ == "__main__":
    for path, text in FILES.items():
        (ROOT / path).write_text(text(), encoding="utf-8")
