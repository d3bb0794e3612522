"""Templates, figures and number formats that all pages share."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from crossdiff.provenance.storage import read_json


class ShownFigure(NamedTuple):
    """A figure as a page shows it."""

    name: str
    image: str  # data URL, so that the page needs no file
    alt: str
    text: str
    section: str = "figures"  # section of the page that shows it
    table: str = ""  # name of the table below it
    question: str = ""  # heading of the figures that answer it

    @classmethod
    def of(
        cls, drawing: str, caption: str, section: str = "figures", table: str = "", question: str = ""
    ) -> "ShownFigure":
        """Read a figure from the paths of its drawing (SVG) and its caption (JSON)."""
        image = "data:image/svg+xml;base64," + base64.b64encode(Path(drawing).read_bytes()).decode()
        told = read_json(caption)
        return cls(Path(drawing).stem, image, told["alt"], told["text"], section, table, question)


def page_template(path: str | Path) -> jinja2.Template:
    """Load the template of a page. It escapes text from data, and a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(path).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "cell": _cell, "whole": _whole}
    return environment.get_template(Path(path).name)


def percent(value: float) -> str:
    """Format a share in whole per cent, and an undefined one as a dash."""
    return "\u2013" if pd.isna(value) else f"{100 * value:.0f} %"


def _cell(value: Any) -> str:
    """Format a value of any table: numbers with three significant digits, a dash for an undefined one.

    A count stays whole, though a column that misses some is read as numbers with a point.
    """
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if isinstance(value, float):
        return "\u2013" if pd.isna(value) else f"{value:.3g}"
    return str(value)


def _whole(value: float) -> str:
    """Format a count. One that could not be counted becomes a dash."""
    return "\u2013" if pd.isna(value) else f"{value:.0f}"


def number(value: float | None) -> str:
    """Format a number with two digits after the point. An undefined one becomes a dash."""
    return "\u2013" if value is None or pd.isna(value) else f"{value:.2f}"


def listed(words: Iterable[str]) -> str:
    """Join words with commas, and the last one with "and". Raises ValueError if there are none."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
