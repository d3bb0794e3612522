"""How ``snakemake --report`` shows a result: in which part of its menu, and with which words.

The words come from the descriptions in docs/files.md and the captions next to figures, not from settings.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from crossdiff.provenance.storage import read_json

# Ending of a file -> (part of the menu, what its column is called). Files with other endings are not shown.
KINDS = {".svg": ("Figures", "figure"), ".csv": ("Tables", "table"), ".html": ("Pages", "page")}
ALL_PAIRS = "all pairs"


def is_shown(pattern: str) -> bool:
    """Whether files of this pattern are shown."""
    return PurePosixPath(pattern).suffix in KINDS


def category(pattern: str) -> str:
    """The part of the menu."""
    return KINDS[PurePosixPath(pattern).suffix][0]


def subcategory(pattern: str) -> str:
    """The place below it, in which Snakemake fills the wildcards."""
    found = [part for part in ("{pair}", "layer {layer}") if part.split()[-1] in pattern]
    return ", ".join(found) or ALL_PAIRS


def labels(pattern: str, wildcards: Mapping[str, str]) -> dict[str, str]:
    """The name of a result, and what it is."""
    path = pattern.format(**wildcards)
    place = PurePosixPath(path)
    name = place.parent.name if place.stem == "index" else place.stem
    return {KINDS[place.suffix][1]: name.replace("_", " "), "shows": _told(path)}


def _told(path: str) -> str:
    """What a figure shows, by its caption, or what any other file holds."""
    if path.endswith(".svg"):
        told = read_json(f"{path.removesuffix('.svg')}.json")["alt"]
    else:
        from crossdiff.results.described import file_of  # not at the top: reads files that only reports need

        told = file_of(path).means
    return str(told).translate({ord("{"): None, ord("}"): None})  # Snakemake takes them for wildcards
