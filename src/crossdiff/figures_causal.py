"""The figure of the causal experiment."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.figures import BLUE, ORANGE

LABELS = {
    "none": "none",
    "all": "all latents + base error",
    "error": "chat error",
    "template": "chat at template tokens",
    "bias": "decoder bias difference",
    "best_norm": "best half, decoder norm",
    "worst_norm": "worst half, decoder norm",
    "best_scaling": "best half, latent scaling",
    "worst_scaling": "worst half, latent scaling",
    "random": "random half",
}
STYLES = ({"color": BLUE}, {"color": ORANGE, "hatch": "////"})  # all answer tokens, the first ones
HEIGHT = 0.38  # of a bar; two share a row


def kl(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """KL to the chat model of every hybrid, all answer tokens and the first ones, one panel per crosscoder.

    Whiskers are the 95 % bootstrap over conversations, the dotted lines "none". Random halves share a row: the bar is their mean, each a
    dot. Empty sets, sets that never fired and undefined means are named in the place of a bar or behind it.
    """
    tables = {name: _with_rows(table) for name, table in tables.items()}
    labels = list(dict.fromkeys(row for table in tables.values() for row in table.row))
    size = (1.6 + 4.2 * len(tables), 1.2 + 0.34 * len(labels))
    figure, axes = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        groups = list(dict.fromkeys(table.group))[: len(STYLES)]
        for number, (group, style) in enumerate(zip(groups, STYLES, strict=True)):
            part = table[table.group == group]
            for label, rows in part.groupby("row"):
                _bar(ax, rows, labels.index(label) + HEIGHT * (number - 0.5), style)
            none = part[part.variant == "none"].kl.item()
            ax.axvline(none, color=style["color"], ls=":", lw=1)
            ax.barh(np.nan, np.nan, label=f"{group} ({part.tokens.iloc[0]} tokens)", **_look(style))
        for label, rows in table.groupby("row"):
            _note(ax, rows, labels.index(label))
        ax.set(xlim=(0, None), ylim=(len(labels) - 0.4, -0.6), xlabel="KL to the chat model (nats per answer token)")
        ax.set_title(f"{name}: {table.conversations.max()} conversations")
        ax.legend(fontsize=7, loc="lower right")
    axes[0, 0].set_yticks(range(len(labels)), labels)
    return figure


def _with_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the label of each hybrid's row."""
    name = table.variant.str.replace(r"_\d+$", "", regex=True).map(LABELS)
    return table.assign(row=name + table.form.eq("additive").map({True: ", additive", False: ""}))


def _look(style: Mapping[str, str]) -> dict[str, object]:
    return {"height": HEIGHT, "edgecolor": "white", "linewidth": 0.3, **style}


def _bar(ax: plt.Axes, rows: pd.DataFrame, y: float, style: Mapping[str, str]) -> None:
    """One bar, with an interval for a single hybrid and with dots for several."""
    if rows.latents.eq(0).any() or rows.kl.isna().any():
        return
    ax.barh(y, rows.kl.mean(), **_look(style))
    if len(rows) > 1:
        ax.plot(rows.kl, np.full(len(rows), y), "k.", ms=3)
    else:
        row = rows.iloc[0]
        ax.plot([row.low_conversations, row.high_conversations], [y, y], color="black", lw=0.9)


def _note(ax: plt.Axes, rows: pd.DataFrame, y: float) -> None:
    """What a reader must know of a row: an empty set, one that never fired, or tokens without a finite KL."""
    first = rows.iloc[0]
    if rows.latents.eq(0).any():
        text = "empty set"
    elif rows.undefined.gt(0).any():
        text = f"undefined at {rows.undefined.max()} tokens"
    elif rows.fired.eq(0).all():
        text = f"none of its {int(first.latents)} latents fired"
    elif pd.notna(first.latents):
        text = f"{int(first.latents)} latents"
    else:
        return
    ax.annotate(
        text,
        (0, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=6,
        bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1},
    )
