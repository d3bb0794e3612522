"""Write the pages that are made from descriptions in the code: python docs/make_reference.py."""

from pathlib import Path

from crossdiff.results import reference

PAGES = {"docs/files.md": reference.markdown}  # path -> its text

if __name__ == "__main__":
    for path, text in PAGES.items():
        (Path(__file__).parent.parent / path).write_text(text(), encoding="utf-8")
