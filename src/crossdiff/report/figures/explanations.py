"""Draws how well explanations tell where a latent fires, set by set."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.config import Classes
from crossdiff.explanations.comparison import FEW_LATENTS, by_quantile, compare, sets
from crossdiff.report.figures.drawing import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    captioned,
    label_rows,
    stacks,
)

# Colour, marker and line of each set.
LOOKS = (
    (BLUE, "o", "-"),
    (GREY, "s", "--"),
    (VERMILION, "^", "-"),
    (ORANGE, "v", "-"),
)
MOST_DOTS = 400  # dots per set; more would hide the mean


class Scores(NamedTuple):
    """Tables of one crosscoder: its latents, and one explainer's scores of them."""

    betas: pd.DataFrame
    latents: pd.DataFrame
    quantiles: pd.DataFrame


@captioned(
    "Detection score of each latent's explanation, by set of latents, and recall in each activation quantile",
    """How well an explanation tells contexts in which a latent fires from other contexts (1 is always, ½ is
    chance). The contexts come from documents that it was not made from. Patterns are tokens, word sequences
    and places in a chat, found without a language model. Large marks are means with 95 % intervals (bootstrap
    over latents). Hollow marks have too few latents to conclude. Low and high ν are the halves of the set on
    the left by latent scaling. Below is the share of contexts that the explanation recognises, by strength of
    activation.""",
)
def explanations(
    betas: Mapping[str, pd.DataFrame], classes: Classes, **scores: Mapping[str, pd.DataFrame]
) -> Figure:
    """Draw ``by_scores`` for every explainer.

    ``scores`` holds an explainer's table of latents under its name, and its table of quantiles under
    NAME_quantiles.
    """
    explainers = [name for name in scores if not name.endswith("_quantiles")]
    found = {
        (name.replace("_", " "), crosscoder): Scores(
            table, scores[name][crosscoder], scores[f"{name}_quantiles"][crosscoder]
        )
        for name in explainers
        for crosscoder, table in betas.items()
    }
    return by_scores(found, classes.top)


def by_scores(scores: Mapping[tuple[str, str], Scores], top: int) -> Figure:
    """Draw two plots per (explainer, crosscoder).

    Above is the detection of every latent by set, with the mean and its 95 % interval. Below is the recall in
    each activation quantile. A set of fewer than FEW_LATENTS is drawn hollow and says so.
    """
    names = [f"{crosscoder}, {explainer}" for explainer, crosscoder in scores]
    figure, (upper, lower) = stacks(names, (2.8, 2.8), 3.7)
    for above, below, name, found in zip(upper, lower, names, scores.values(), strict=True):
        _detection(above, found, top)
        above.set_title(name)
        _recall(below, found, top)
    label_rows(upper, "detection (balanced accuracy)")
    label_rows(lower, "contexts recognised")
    return figure


def _detection(ax: plt.Axes, found: Scores, top: int) -> None:
    table = compare(found.betas, found.latents, top)
    detection = found.latents.set_index("latent").detection
    labels, generator = [], np.random.default_rng(0)
    for place, (row, (colour, marker, _), (latents, _)) in enumerate(
        zip(table.itertuples(), LOOKS, sets(found.betas, top).values(), strict=True)
    ):
        if pd.isna(row.scored):  # no base decoder
            labels.append(f"{row.set}\ndoes\nnot apply")
            continue
        values = detection.reindex(latents.latent).dropna().to_numpy()
        few = row.scored < FEW_LATENTS
        shown = generator.choice(values, MOST_DOTS, replace=False) if len(values) > MOST_DOTS else values
        look: dict[str, Any] = {"s": 5, "lw": 0, "alpha": 0.35, "rasterized": True}
        places = place + generator.uniform(-0.3, 0.3, len(shown))
        ax.scatter(places, shown, color=colour, marker=marker, **look)
        if row.scored:
            spread = [[row.detection - row.low], [row.high - row.detection]]
            mark: dict[str, Any] = {"marker": marker, "ms": 6, "mfc": "white" if few else colour}
            ax.errorbar(place, row.detection, spread, color="black", capsize=4, lw=1.3, zorder=3, **mark)
            above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            ax.annotate(f"{row.detection:.2f}", (place, row.high), (0, 5), **above)
        label = row.set.replace("most ", "most\n")
        labels.append(f"{label}\n{row.scored} of {row.latents}" + ("\ntoo few" if few else ""))
    ax.axhline(0.5, color="black", lw=0.7, ls=":")
    ax.set(xlim=(-0.6, len(labels) - 0.4), ylim=(0.2, 1.04), xticks=range(len(labels)))
    ax.set_xticklabels(labels, fontsize=7)


def _recall(ax: plt.Axes, found: Scores, top: int) -> None:
    table = by_quantile(found.betas, found.quantiles, top)
    for (name, part), (colour, marker, line) in zip(table.groupby("set", sort=False), LOOKS, strict=False):
        ax.plot(part["quantile"], part.recall, color=colour, marker=marker, ms=4, ls=line, label=name)
        ax.fill_between(part["quantile"], part.low, part.high, color=colour, alpha=0.15, lw=0)
    ax.set(xlim=(0, 1.03), ylim=(0, 1.04), xlabel="up to this share of the latent's largest activation")
    if ax.has_data():
        ax.legend(fontsize=7, loc="lower right")
