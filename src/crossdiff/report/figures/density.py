"""Draws how often latents fire."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.config import Density
from crossdiff.latents.applies import reason
from crossdiff.report.figures.drawing import BLUE, GREY, ORANGE, VERMILION, captioned, label_rows, panels

# Class -> colour and line.
LOOKS = {
    "shared": (GREY, "-"),
    "other": (BLUE, "--"),
    "base-only": (ORANGE, "-."),
    "chat-only": (VERMILION, ":"),
}


@captioned(
    "Histogram of the share of tokens on which latents fire, by class, per crosscoder",
    """How often latents fire. Left of the first dotted line they are rare: few contexts show what they are
    about. Right of the second they are dense: latents that fire on so many tokens are seldom concepts. If
    most chat-only latents are dense or rare, doubt them.""",
)
def density(betas: Mapping[str, pd.DataFrame], density: Density) -> Figure:
    """Draw the density of live latents per crosscoder: the share of each class in bins of a log axis."""
    figure, axes = panels(list(betas), height=3.1, sharey=True)
    for ax, (name, table) in zip(axes, betas.items(), strict=True):
        live = table[(table["class"] != "dead") & (table.frequency > 0)]
        lowest = min(1e-5, live.frequency.min()) if len(live) else 1e-5
        bins = np.geomspace(lowest, 1, 41).tolist()
        # Without a base decoder there are no classes.
        looks = {"all live": (BLUE, "-")} if reason(table) else LOOKS
        for label, (colour, line) in looks.items():
            frequencies = live.frequency[(live["class"] == label) | (label == "all live")]
            if len(frequencies):
                weights = np.full(len(frequencies), 1 / len(frequencies))
                look: dict[str, Any] = {"histtype": "step", "color": colour, "ls": line, "lw": 1.5}
                ax.hist(
                    frequencies, bins=bins, weights=weights, label=f"{label} ({len(frequencies)})", **look
                )
        for border in (density.rare_below, density.dense_above):
            ax.axvline(border, color="black", lw=0.7, ls=":")
        dense = int((live.frequency > density.dense_above).sum())
        ax.set(xscale="log", xlim=(lowest, 1), xlabel="share of tokens on which a latent fires")
        ax.set_title(f"{name}: {dense} of {len(live):,} dense")
        if ax.has_data():
            ax.legend(loc="upper left", fontsize=7)
    label_rows(axes, "share of the class")
    return figure
