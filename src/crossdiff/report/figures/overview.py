"""Draws all pairs over the layers."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossdiff.report.figures.drawing import CYCLE, STYLES, captioned, cycle

MARKERS = ("o", "s", "^", "D", "v", "P")
ROWS = {"fve_base": "FVE, base", "fve_chat": "FVE, chat", "confirmed": "confirmed latents"}


@captioned(
    "FVE of both models and number of confirmed latents against the layer, per pair and crosscoder",
    """Every pair at every layer. A line goes through the mean over seeds, and each point is one training.
    Below are the latents that latent scaling confirms as specific to the chat model, among those that lean
    most to it. A layer with more of them shows more of what fine-tuning added. Compare layers of similar FVE:
    what a crosscoder does not explain, it cannot find.""",
)
def layers(pairs: pd.DataFrame) -> Figure:
    """Draw the rows of ``latents.overlap.pairs_table``, one column of plots per crosscoder."""
    crosscoders, names = sorted(pairs.crosscoder.unique()), list(dict.fromkeys(pairs.pair))
    size = (max(5.0, 3.6 * len(crosscoders)), 7.2)
    figure, axes = plt.subplots(
        len(ROWS), len(crosscoders), figsize=size, squeeze=False, sharex=True, sharey="row"
    )
    looks = list(
        zip(
            names,
            cycle(CYCLE, len(names)),
            cycle(STYLES, len(names)),
            cycle(MARKERS, len(names)),
            strict=True,
        )
    )
    for column, crosscoder in zip(axes.T, crosscoders, strict=True):
        of_crosscoder = pairs[pairs.crosscoder == crosscoder]
        column[0].set_title(crosscoder)
        for ax, value in zip(column, ROWS, strict=True):
            for name, colour, style, marker in looks:
                rows = of_crosscoder[of_crosscoder.pair == name]
                mean = rows.groupby("layer")[value].mean()
                ax.plot(mean.index, mean, color=colour, ls=style, lw=1.4)
                look: dict[str, Any] = {"s": 22, "color": colour, "marker": marker}
                ax.scatter(rows.layer, rows[value], label=name, **look)
        column[2].set(xlabel="layer", ylim=(0, None))
        column[2].xaxis.set_major_locator(MaxNLocator(integer=True))
        column[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    for ax, label in zip(axes[:, 0], ROWS.values(), strict=True):
        ax.set_ylabel(label)
    for ax in axes[:2, 0]:
        ax.set_ylim(min(0.5, ax.get_ylim()[0]), 1)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(names))
    )
    return figure
