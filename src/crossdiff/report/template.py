"""What all pages share: their templates, figures and the form of numbers."""

import base64
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from crossdiff.provenance.storage import read_json


class ShownFigure(NamedTuple):
    """A figure as a page shows it."""

    name: str
    image: str  # an address that needs no file
    alt: str
    text: str
    section: str = "figures"  # of the page
    table: str = ""  # name of the table that stands below it

    @classmethod
    def of(cls, drawing: str, caption: str, section: str = "figures", table: str = "") -> "ShownFigure":
        """From the paths of a figure (SVG) and its caption (JSON)."""
        image = "data:image/svg+xml;base64," + base64.b64encode(Path(drawing).read_bytes()).decode()
        return cls(Path(drawing).stem, image, **read_json(caption), section=section, table=table)


def page_template(path: str | Path) -> jinja2.Template:
    """A template of a page; its text from data is escaped, and a value that it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(path).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "cell": _cell}
    return environment.get_template(Path(path).name)


def percent(value: float) -> str:
    """A share in whole per cent; a dash for one that is undefined."""
    return "\u2013" if pd.isna(value) else f"{100 * value:.0f} %"


def _cell(value: Any) -> str:
    """A value of any table: numbers with three significant digits, a dash for one that is undefined."""
    if isinstance(value, float):
        return "\u2013" if pd.isna(value) else f"{value:.3g}"
    return str(value)


def number(value: float | None) -> str:
    """Two digits after the point; a dash for a value that is undefined."""
    return "\u2013" if value is None or pd.isna(value) else f"{value:.2f}"
