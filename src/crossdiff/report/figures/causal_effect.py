"""Draws the figure of the causal experiment."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.report.figures.drawing import BLUE, ORANGE, captioned, panels

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


@captioned(
    "KL to the chat model for patched runs, per crosscoder",
    """Causal effect. Each row changes the base model's activations and runs the rest of the chat model on
    them. The bar is the distance (KL) of the resulting predictions from the chat model's own, per answer
    token. Shorter is nearer. If a ranking finds what matters, its best half lowers the KL more than its worst
    half.""",
)
def kl(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the KL to the chat model of every patched run, for all answer tokens and the first ones.

    There is one panel per crosscoder. Whiskers are the 95 % bootstrap over conversations. Dotted lines show
    "none". The numbers on the right are the change against "none" with its 95 % interval. Random halves share
    a row: the bar is their mean, and each has a dot. Empty sets, sets that never fired and undefined means
    are named on the bar or in its place. Groups of confirmed latents are left out: findings tell of them.
    """
    tables = {name: _with_rows(table) for name, table in tables.items()}
    labels = list(dict.fromkeys(row for table in tables.values() for row in table.row))
    figure, axes = panels(list(tables), 4.7, 1.2 + 0.36 * len(labels), sharey=True)
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        for number, (group, style) in enumerate(zip(table.group.unique(), STYLES, strict=False)):
            part = table[table.group == group]
            for label, rows in part.groupby("row"):
                _bar(ax, rows, labels.index(label) + HEIGHT * (number - 0.5), style)
            ax.axvline(part[part.variant == "none"].kl.item(), color=style["color"], ls=":", lw=1)
            ax.barh(np.nan, np.nan, label=f"{group} ({part.tokens.iloc[0]} answer tokens)", **_look(style))
        for label, rows in table.groupby("row"):
            _note(ax, rows, labels.index(label))
        # Leave room for the numbers on the right.
        ax.set(xlim=(0, 1.35 * ax.get_xlim()[1]), ylim=(len(labels) - 0.4, -0.6))
        ax.set_title(f"{name}: {table.conversations.max()} conversations")
    axes[0].set_yticks(range(len(labels)), labels)
    of_bars = "KL to the chat model (nats per answer token; 95 % bootstrap over conversations)"
    figure.supxlabel(of_bars, fontsize=9)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(STYLES), fontsize=8)
    return figure


def _with_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Add the label of each patched run's row to the table. Groups have no row."""
    table = table[~table.variant.str.startswith("group_")]
    name = table.variant.str.replace(r"_\d+$", "", regex=True).map(LABELS)
    return table.assign(row=name + table.form.eq("additive").map({True: ", additive", False: ""}))


def _look(style: Mapping[str, str]) -> dict[str, Any]:
    return {"height": HEIGHT, "edgecolor": "white", "linewidth": 0.3, **style}


def _bar(ax: plt.Axes, rows: pd.DataFrame, y: float, style: Mapping[str, str]) -> None:
    """Draw one bar, with an interval for a single patched run or with dots for several."""
    if rows.latents.eq(0).any() or rows.kl.isna().any():
        return
    ax.barh(y, rows.kl.mean(), **_look(style))
    change = f"{_percent(-rows.reduction.mean())} %"
    if len(rows) > 1:
        ax.plot(rows.kl, np.full(len(rows), y), "k.", ms=3)
    else:
        row = rows.iloc[0]
        ax.plot([row.low_conversations, row.high_conversations], [y, y], color="black", lw=0.9)
        change += f" ({_percent(-row.reduction_high)} to {_percent(-row.reduction_low)})"
    if rows.variant.iloc[0] != "none":
        ax.text(0.99, y, change, ha="right", va="center", fontsize=6, transform=ax.get_yaxis_transform())


def _percent(share: float) -> str:
    return "?" if pd.isna(share) else f"{round(100 * share):+d}"


def _note(ax: plt.Axes, rows: pd.DataFrame, y: float) -> None:
    """Write a note on a row: its set's size, that it never fired, or tokens without a finite KL."""
    first = rows.iloc[0]
    if rows.undefined.fillna(0).gt(0).any():
        text = f"undefined at {rows.undefined.max():.0f} tokens"
    elif "does_not_apply" in rows and rows.does_not_apply.notna().any():
        text = "does not apply"
    elif pd.isna(first.latents):
        return
    elif first.latents == 0:
        text = "empty set"
    elif rows.fired.eq(0).all():
        text = f"{int(first.latents)} latents, none fired"
    else:
        text = f"{int(first.latents)} latents"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    ax.annotate(text, (0, y), (3, 0), textcoords="offset points", va="center", fontsize=6, bbox=box)
