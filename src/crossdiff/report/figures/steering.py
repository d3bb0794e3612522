"""Draws the dose-response figure of steering."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from crossdiff.latents.labels import latent_label
from crossdiff.report.figures.drawing import BLUE, GREY, VERMILION, captioned
from crossdiff.report.steering import prompts_of

LOOKS = {
    "harmful": {"color": VERMILION, "marker": "o", "ls": "-"},
    "benign": {"color": BLUE, "marker": "s", "ls": "--"},
}
CONTROLS = {"random latent": GREY, "random direction": "#BBBBBB"}
OTHER = {"color": VERMILION, "marker": "o", "ls": "-"}  # of prompts that are no requests
PANELS = {
    "rate": "share of answers",
    "kl": "KL to the unsteered\nmodel (nats per token)",
    "perplexity": "perplexity of answers\nunder the base",
}


@captioned(
    "Rate of a behaviour, KL and perplexity against the strength of steering, per latent, with controls",
    """Top: the share of answers with the counted behaviour, which the axis names, with 95 % intervals
    (Wilson). A refusal counts only if the answer opens with it. Middle: how far steering moves the
    predictions along the unsteered answers. Bottom: how odd the base model finds the answers. Where this
    soars the model talks nonsense, and a missing behaviour says little. Whiskers in the lower two are 95 %
    bootstrap intervals over prompts. Grey lines are other latents and random directions of the same norm.""",
)
def steering(
    tables: Mapping[str, pd.DataFrame], names: Mapping[str, Mapping[int, str]] | None = None
) -> Figure:
    """Draw the behaviour's rate, KL and perplexity against the strength of steering, with 95 % intervals.

    Intervals of the rate are Wilson's, others are of a bootstrap over prompts. There is one column per
    steered latent. Every kind of prompt has its marker and line, and the latent has its colour. Controls are
    thin and grey. The last place, apart from the others, is the ablated direction.
    ``names`` of latents, by crosscoder, stand in the titles.
    """
    columns = [(name, latent) for name, table in tables.items() for latent in _latents(table)]
    figure, axes = plt.subplots(
        len(PANELS),
        max(1, len(columns)),
        figsize=(max(4.6, 4.1 * len(columns)), 7.4),
        sharey="row",
        squeeze=False,
        height_ratios=(1.5, 1, 1),
    )
    if not columns:
        axes[0, 0].set_title("no live latent to steer")
    for (name, latent), column in zip(columns, axes.T, strict=False):
        table = tables[name]
        place = _Places(table)
        for ax, value in zip(column, PANELS, strict=True):
            _draw(ax, table, latent, value, place)
            place.label(ax)
        column[0].set_title(latent_label(name, latent, names))
        of_strength = "strength, in multiples of the latent's\nlargest activation in the training text"
        column[-1].set_xlabel(of_strength)
    for row, (value, label) in zip(axes, PANELS.items(), strict=True):
        row[0].set_ylabel(label)
        if value == "rate":
            row[0].set_ylabel(_named(tables), parse_math=False)
            row[0].set_ylim(-0.04, 1.04)
        elif value == "kl":
            row[0].set_yscale("symlog", linthresh=0.1)
            row[0].set_ylim(0, None)
        elif any(table[value].gt(0).any() for table in tables.values()):
            row[0].set_yscale("log")
            row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            row[0].yaxis.set_major_formatter("{x:g}")
            row[0].yaxis.set_minor_formatter(NullFormatter())
    figure.legend(*_legend(tables), loc="outside upper center", ncols=2, fontsize=8)
    return figure


class _Places:
    """Places of the strengths on the axis.

    They are evenly spaced, because grids are often geometric. "ablated" stands apart on the right.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.strengths = sorted(table.strength.dropna().unique())
        self.out = len(self.strengths) + 0.5

    def of(self, rows: pd.DataFrame) -> np.ndarray:
        return np.array(
            [self.out if np.isnan(strength) else self.strengths.index(strength) for strength in rows.strength]
        )

    def label(self, ax: plt.Axes) -> None:
        labels = ["0" if strength == 0 else f"{strength:+g}" for strength in self.strengths]
        ax.set_xticks([*range(len(labels)), self.out], [*labels, "ablated"])
        ax.set_xlim(-0.4, self.out + 0.5)
        ax.axvline(self.strengths.index(0), color="black", lw=0.5, ls=(0, (1, 3)))


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Kind of prompt -> how it is drawn."""
    return {requests: LOOKS.get(requests, OTHER) for requests in table.requests.unique()}


def _named(tables: Mapping[str, pd.DataFrame]) -> str:
    """The behaviour for the axis: "refuses", or the start of a longer one."""
    behaviour = next((str(table.behaviour.iloc[0]) for table in tables.values()), "")
    return "\n".join([f"{PANELS['rate']} that", *textwrap.wrap(textwrap.shorten(behaviour, 56), 30)])


def _latents(table: pd.DataFrame) -> list[int]:
    return table.latent.dropna().astype(int).drop_duplicates().tolist()


def _draw(ax: plt.Axes, table: pd.DataFrame, latent: int, value: str, place: _Places) -> None:
    """Draw one panel: the controls first, and the latent over them."""
    low, high = ("low", "high") if value == "rate" else (f"{value}_low", f"{value}_high")
    unsteered = table[table.change == "none"]
    of_latent = table[table.latent == latent]
    for kind, grey in CONTROLS.items():
        for (_, requests), rows in of_latent[of_latent.direction == kind].groupby(["number", "requests"]):
            whole = pd.concat([rows, unsteered[unsteered.requests == requests]])
            _line(ax, whole, value, place, **_looks(table)[requests] | {"color": grey}, lw=0.8, ms=2.5)
    for requests, look in _looks(table).items():
        rows = pd.concat([of_latent[of_latent.direction == "latent"], unsteered])
        rows = rows[rows.requests == requests]
        _line(ax, rows, value, place, **look, lw=1.8, ms=5)
        middle = rows[value].to_numpy()
        reach = np.abs(np.stack([middle - rows[low], rows[high] - middle]))
        ax.errorbar(place.of(rows), middle, reach, fmt="", ls="", color=look["color"], lw=1, capsize=2)


def _line(ax: plt.Axes, rows: pd.DataFrame, value: str, place: _Places, **style: Any) -> None:
    """Draw a line through the strengths, and a separate mark for the ablated direction."""
    added, out = rows[rows.strength.notna()].sort_values("strength"), rows[rows.strength.isna()]
    ax.plot(place.of(added), added[value], **style)
    ax.plot(place.of(out), out[value], **style | {"ls": ""})


def _legend(tables: Mapping[str, pd.DataFrame]) -> tuple[list[plt.Line2D], list[str]]:
    table = next(iter(tables.values()))
    asked = table[table.change == "none"].set_index("requests").asked
    of_controls = [{"color": grey, "lw": 0.8} for grey in CONTROLS.values()]
    kinds = _looks(table)
    looks: list[dict[str, Any]] = [*kinds.values(), *of_controls]
    handles = [plt.Line2D([], [], **look) for look in looks]
    controls = {
        kind: table[table.direction == kind].groupby("latent").number.nunique().max() for kind in CONTROLS
    }
    counts = {kind: 0 if pd.isna(count) else int(count) for kind, count in controls.items()}
    return handles, [
        *(f"{asked[requests]} {prompts_of(requests)}" for requests in kinds),
        *(f"{count} {kind}{'' if count == 1 else 's'} of the same norm" for kind, count in counts.items()),
    ]
