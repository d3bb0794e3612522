"""Draws which organisms every method finds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from crossdiff.report.figures.drawing import BLUE, VERMILION, captioned

CELL, LABELS = 0.42, 2.6  # of a row or a column, and of the labels next to them, in inches
NOTHING, FOUND, FALSE, NOT_SCORED = range(4)
COLOURS = ("#F2F2F2", BLUE, VERMILION, "white")


@captioned(
    "Matrix of methods and organisms: the place of the first item that finds the taught behaviour",
    """A number is the place of the first of ten items that finds the behaviour, by the rule of
    docs/organisms.md, in the first seed. Grey: none does. White: the rule does not apply to the method.
    The diffing text holds the behaviours of the first organisms. The last ones were taught nothing: there a
    number counts the behaviours that are found all the same, so it should not be there.""",
)
def found_matrix(found: pd.DataFrame) -> Figure:
    """Draw the rows of ``organisms.csv``. Rows are methods, the one that finds most first."""
    first = found[found.seed == found.groupby(["method", "crosscoder"]).seed.transform("min")]
    label = np.where(first.crosscoder == "", first.method, first.crosscoder + ", " + first.method)
    first = first.assign(label=label, hit=first.found_at_10.fillna(False).astype(bool))
    own, nulls = first[~first.is_null], first[first.is_null]
    parts = {"in the\ntext": own[own.in_text], "not\nin it": own[~own.in_text], "nulls": nulls}
    groups = {name: list(dict.fromkeys(part.organism)) for name, part in parts.items() if len(part)}
    columns = [organism for group in groups.values() for organism in group]
    hits = own.groupby("label", sort=False).hit.sum().sort_values(ascending=False, kind="stable")
    figure, ax = plt.subplots(figsize=(LABELS + CELL * len(columns), LABELS / 2 + CELL * len(hits)))
    kinds = np.full((len(hits), len(columns)), NOTHING)
    for i, method in enumerate(hits.index):
        for j, organism in enumerate(columns):
            rows = first[(first.label == method) & (first.organism == organism)]
            if (rows.not_scored != "").all():
                kinds[i, j] = NOT_SCORED
            elif rows.hit.any():
                is_null = bool(rows.is_null.iloc[0])
                kinds[i, j] = FALSE if is_null else FOUND
                text = int(rows.hit.sum()) if is_null else int(rows["rank"].min())
                ax.text(j, i, str(text), ha="center", va="center", color="white")
    ax.imshow(kinds, cmap=ListedColormap(COLOURS), vmin=NOTHING, vmax=NOT_SCORED, aspect="equal")
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    ax.set_yticks(range(len(hits)), list(hits.index))
    ends = np.cumsum([len(group) for group in groups.values()]) - 0.5
    for end in ends[:-1]:
        ax.axvline(end, color="black", linewidth=0.8)
    middles = [end - len(group) / 2 for end, group in zip(ends, groups.values(), strict=True)]
    above = ax.secondary_xaxis("top")
    above.set_xticks(middles, list(groups))
    for axis in (ax, above):
        axis.tick_params(length=0)
    return figure
