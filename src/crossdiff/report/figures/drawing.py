"""Code that all figures share.

Colours are of the Okabe-Ito palette. Markers or line styles repeat what a colour says.
"""

import math
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
        "pdf.fonttype": 42,  # TrueType, as journals want them: fonts are embedded, and text stays text
        "figure.constrained_layout.use": True,
    }
)

DOTS = 300  # per inch, of a PNG

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
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "black")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
PER_ROW = 3  # plots side by side; with more of them a page would show their text too small


def save(figure: Figure, paths: Sequence[str]) -> None:
    """Write one figure to every path. The ending gives the format.

    Without dates unchanged data give unchanged files.
    """
    figure.draw_without_rendering()  # finds the layout, which takes longer than writing a file
    figure.set_layout_engine("none")
    for path in paths:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=DOTS, metadata=_metadata(path))
    plt.close(figure)


def _metadata(path: str) -> dict[str, str | None]:
    """The record's id under a key that the format has, and no date."""
    mark = record_mark()
    if path.endswith(".svg"):  # has the keys of Dublin Core alone
        return {"Date": None, "Identifier": mark.get("crossdiff-record")}
    if path.endswith(".pdf"):
        return {"CreationDate": None, "Keywords": mark.get("crossdiff-record")}
    return dict(mark)


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
    """Return a figure with one plot for every name, PER_ROW side by side.

    Sizes are those of one plot, in inches. With ``sharey`` all have one y axis.
    """
    figure, (axes,) = stacks(names, (height,), width, sharey)
    return figure, axes


def stacks(
    names: Sequence[str], heights: Sequence[float], width: float = 3.6, sharey: bool = True
) -> tuple[Figure, Sequence[Sequence[plt.Axes]]]:
    """Return a figure with plots one above the other for every name, PER_ROW names side by side.

    ``heights`` are those of the plots of one name, and ``width`` is theirs, in inches. Gives a list of all
    first plots, one of all second ones, and so on. With ``sharey`` each list has one y axis.
    """
    columns, lines = min(len(names), PER_ROW), math.ceil(len(names) / PER_ROW)
    figure, grid = plt.subplots(
        lines * len(heights),
        columns,
        figsize=(max(5.0, width * columns), lines * sum(heights)),
        height_ratios=[*heights] * lines,
        squeeze=False,
    )
    lists = [grid[row :: len(heights)].flatten().tolist() for row in range(len(heights))]
    for axes in lists:
        for spare in axes[len(names) :]:
            spare.remove()
        del axes[len(names) :]
        for ax in axes[1:] if sharey else ():
            ax.sharey(axes[0])
            ax.tick_params(labelleft=is_first(ax))
    return figure, lists


def is_first(ax: plt.Axes) -> bool:
    """Whether a plot is the first of its row, which has the labels of all."""
    place = ax.get_subplotspec()
    return place is not None and place.is_first_col()


def label_rows(axes: Sequence[plt.Axes], label: str) -> None:
    """Write the label of the y axis at the first plot of every row."""
    for ax in filter(is_first, axes):
        ax.set_ylabel(label)


def cycle(values: Sequence[T], count: int) -> list[T]:
    """Return ``count`` values. If there are fewer, they start again from the first."""
    return [values[i % len(values)] for i in range(count)]
