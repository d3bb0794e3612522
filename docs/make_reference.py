"""Write the reference pages that are made from code: `make reference`."""

import json
from collections.abc import Callable
from pathlib import Path

import command_line_page
import python_page

from crossdiff.config import reference as config
from crossdiff.results import reference as results

ROOT = Path(__file__).parents[1]
FILES: dict[str, Callable[[], str]] = {
    "docs/config.md": config.markdown,
    "config.schema.json": lambda: json.dumps(config.schema(), indent=2, ensure_ascii=False) + "\n",
    "docs/files.md": results.markdown,
    "docs/command-line.md": command_line_page.markdown,
    "docs/python.md": python_page.markdown,
}

if __name__ == "__main__":
    for path, text in FILES.items():
        (ROOT / path).write_text(text(), encoding="utf-8")
