"""Code that all figures share.

Colours are of the Okabe-Ito palette. Markers or line styles repeat what a colour says.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from crossdiff.provenance.storage import atomic_path, record_mark, write_json

matplotlib.use("Agg")
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "svg.hashsalt": "crossdiff",  # so that the same data give the same bytes
        "svg.fonttype": "none",
        "figure.constrained_layout.use": True,
    }
)

T = TypeVar("T")
Draw = TypeVar("Draw", bound=Callable[..., Figure])
CAPTION = "caption"  # the attribute of a figure's function that holds its caption


class Caption(NamedTuple):
    """The words that go with a figure, as plain text."""

    alt: str  # for readers who can't see it
    text: str  # below the figure


def captioned(alt: str, text: str) -> Callable[[Draw], Draw]:
    """Put a caption next to the function that draws its figure; ``caption_of`` finds it."""

    def on(draw: Draw) -> Draw:
        setattr(draw, CAPTION, Caption(alt, " ".join(text.split())))
        return draw

    return on


def caption_of(draw: Callable[..., Figure]) -> Caption:
    """Return the caption of a figure. Raises AttributeError for a function that has none."""
    return getattr(draw, CAPTION)


BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def save(figure: Figure, paths: Sequence[str]) -> None:
    """Write one figure to every path. The ending gives the format.

    Without dates unchanged data give unchanged files.
    """
    for path in paths:
        with atomic_path(path) as temporary:
            # SVG metadata may only have the keys of Dublin Core.
            svg = {"Date": None, "Identifier": record_mark().get("crossdiff-record")}
            metadata = svg if path.endswith(".svg") else record_mark()
            figure.savefig(temporary, dpi=150, metadata=metadata)
    plt.close(figure)


def write(
    draw: Callable[..., Figure], drawing: Sequence[str], caption: str, *args: object, **kwargs: object
) -> None:
    """Draw a figure with these arguments.

    Write it to the paths ``drawing`` and its caption, as JSON, to ``caption``.
    """
    save(draw(*args, **kwargs), drawing)
    write_json(caption, caption_of(draw)._asdict())


def say_missing(ax: plt.Axes, why: str) -> None:
    """Write on an empty plot that what it would show does not apply, and ``why``."""
    text = "\n".join(["does not apply:", *textwrap.wrap(why, 28)])
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, transform=ax.transAxes)


def panels(
    names: Sequence[str], width: float = 3.6, height: float = 2.9, sharey: bool = False
) -> tuple[Figure, Sequence[plt.Axes]]:
    """Return a figure with one plot for every name, side by side. Sizes are those of one plot, in inches."""
    size = (max(5.0, width * len(names)), height)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharey=sharey)
    return figure, axes[0].tolist()


def cycle(values: Sequence[T], count: int) -> list[T]:
    """Return ``count`` values. If there are fewer, they start again from the first."""
    return [values[i % len(values)] for i in range(count)]
