"""Draws all pairs over the layers."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossdiff.latents.applies import reason
from crossdiff.report.figures.drawing import CYCLE, STYLES, captioned, cycle, say_missing

MARKERS = ("o", "s", "^", "D", "v", "P")
# What a plot shows: columns of the table, and its title.
COLUMNS = {
    "fve_base": "FVE, base model",
    "fve_chat": "FVE, chat model",
    "others_confirmed": "confirmed latents",
}
WIDTH, HEIGHT, LEGEND = 3.1, 2.4, 0.5  # of a plot, and of the legend, in inches


@captioned(
    "FVE of both models and number of confirmed latents against the layer, per pair and crosscoder",
    """Every pair at every layer. A line goes through the mean over seeds, and each point is one training.
    Confirmed latents are those that latent scaling confirms as specific to the chat model. A layer with more
    of them shows more of what fine-tuning added. Compare layers of similar FVE: what a crosscoder does not
    explain, it cannot find.""",
)
def layers(pairs: pd.DataFrame) -> Figure:
    """Draw the rows of ``latents.overlap.pairs_table``, one row of plots per crosscoder."""
    crosscoders, names = sorted(pairs.crosscoder.unique()), list(dict.fromkeys(pairs.pair))
    size = (WIDTH * len(COLUMNS), HEIGHT * len(crosscoders) + LEGEND)
    figure, axes = plt.subplots(
        len(crosscoders), len(COLUMNS), figsize=size, squeeze=False, sharex=True, sharey="col"
    )
    count = len(names)
    looks = list(zip(names, cycle(CYCLE, count), cycle(STYLES, count), cycle(MARKERS, count), strict=True))
    for row, crosscoder in zip(axes, crosscoders, strict=True):
        trainings = pairs[pairs.crosscoder == crosscoder]
        row[0].set_ylabel(crosscoder)
        for ax, value in zip(row, COLUMNS, strict=True):
            if trainings[value].isna().all() and (why := reason(trainings)):
                say_missing(ax, why)
            for name, colour, style, marker in looks:
                points = trainings[trainings.pair == name]
                mean = points.groupby("layer")[value].mean()
                ax.plot(mean.index, mean, color=colour, ls=style, lw=1.4)
                ax.scatter(points.layer, points[value], s=22, color=colour, marker=marker, label=name)
    for ax, title in zip(axes[0], COLUMNS.values(), strict=True):
        ax.set_title(title)
    lowest = min(0.5, pairs[["fve_base", "fve_chat"]].min(axis=None) - 0.03)
    for ax in axes[0, :2]:
        ax.set_ylim(lowest, 1)
    axes[0, 2].set_ylim(0, max(1, 1.08 * pairs.others_confirmed.max()))
    axes[0, 2].yaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[-1]:
        ax.set(xlabel="layer", xticks=sorted(pairs.layer.unique()))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, count))
    return figure
