"""Print the CHANGELOG's section of a version: python docs/release_notes.py VERSION."""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(version: str, changelog: str) -> str:
    """The text of a version's section. Raises SystemExit with one line where there is none."""
    sections = re.split(r"^## (\S+).*\n", changelog, flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    if version not in found:
        raise SystemExit(f"{version}: not in the CHANGELOG; allowed: {', '.join(found)}")
    return found[version].strip() + "\n"


if __name__ == "__main__":
    print(notes(sys.argv[1], CHANGELOG.read_text(encoding="utf-8")), end="")
