"""What all figures share. Colours are of the Okabe-Ito palette, and what colour tells is also told by marker or line style."""

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
        "svg.hashsalt": "crossdiff",  # the same data give the same bytes
        "svg.fonttype": "none",
        "figure.constrained_layout.use": True,
    }
)

T = TypeVar("T")
Draw = TypeVar("Draw", bound=Callable[..., Figure])


class Caption(NamedTuple):
    """What stands with a figure, as plain text."""

    alt: str  # for who can't see it
    text: str


def captioned(alt: str, text: str) -> Callable[[Draw], Draw]:
    """Put a caption next to the function that draws its figure; ``caption_of`` finds it."""

    def on(draw: Draw) -> Draw:
        draw.caption = Caption(alt, " ".join(text.split()))
        return draw

    return on


def caption_of(draw: Callable[..., Figure]) -> Caption:
    """The caption of a figure. Raises AttributeError for a function that has none."""
    return draw.caption


BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def save(figure: Figure, paths: Sequence[str]) -> None:
    """Write one figure to every path; the ending gives the format. No dates: unchanged data give unchanged files."""
    for path in paths:
        with atomic_path(path) as temporary:
            # The keys of SVG metadata are fixed: those of Dublin Core.
            svg = {"Date": None, "Identifier": record_mark().get("crossdiff-record")}
            metadata = svg if path.endswith(".svg") else record_mark()
            figure.savefig(temporary, dpi=150, metadata=metadata)
    plt.close(figure)


def write(
    draw: Callable[..., Figure], drawing: Sequence[str], caption: str, *args: object, **kwargs: object
) -> None:
    """Draw a figure with these arguments; write it to the paths ``drawing`` and its caption, as JSON, to ``caption``."""
    save(draw(*args, **kwargs), drawing)
    write_json(caption, caption_of(draw)._asdict())


def panels(
    names: Sequence[str], width: float = 3.6, height: float = 2.9, **kwargs: object
) -> tuple[Figure, Sequence[plt.Axes]]:
    """A figure with one plot for every name, side by side; sizes in inches, of one plot."""
    figure, axes = plt.subplots(
        1, len(names), figsize=(max(5.0, width * len(names)), height), squeeze=False, **kwargs
    )
    return figure, axes[0]


def cycle(values: Sequence[T], count: int) -> list[T]:
    """``count`` values, over again from the first where there are fewer."""
    return [values[i % len(values)] for i in range(count)]
