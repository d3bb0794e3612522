"""Draws the figures of planted concepts.

Each is a function from tables of latents (planted.scoring.latent_table) to a matplotlib figure.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.config import Classes, LatentScaling, Scoring
from crossdiff.latents.evaluation import NU_RANGE, plausible
from crossdiff.planted.claims import recall_curve
from crossdiff.planted.scoring import STATISTICS, evidence, fit, recovery, roc_latents
from crossdiff.report.figures.drawing import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLES,
    VERMILION,
    YELLOW,
    captioned,
    label_rows,
    panels,
)

Tables = Mapping[tuple[str, int], pd.DataFrame]  # (crosscoder, seed) -> latents

KIND_LOOKS = {  # colour, hatch, marker
    "chat_only": (BLUE, "", "o"),
    "weakened": (VERMILION, "///", "^"),
    "decoupled": (ORANGE, "\\\\\\", "s"),
    "rotated": (GREEN, "...", "D"),
    "base_only": (PURPLE, "xxx", "v"),
    "shared": (SKY, "---", "P"),
    "none": (GREY, "++", "."),
    "borderline": (YELLOW, "", "X"),
}
STATISTIC_NAMES = {
    "norm_difference": "norm difference",
    "nu_error": r"$\nu$ error",
    "nu_reconstruction": r"$\nu$ reconstruction",
}
RATIO_NAMES = {
    "nu_error": r"$\nu$ error",
    "nu_reconstruction": r"$\nu$ reconstruction",
    "norm_ratio": "decoder norms, base over chat",
}


def _names(tables: Tables) -> list[str]:
    return list(dict.fromkeys(name for name, _ in tables))


def _of(tables: Tables, name: str) -> list[pd.DataFrame]:
    return [table for (crosscoder, _), table in tables.items() if crosscoder == name]


@captioned(
    "Latents called chat-only by each rule, by kind of planted concept",
    """What each rule calls chat-only. A good rule has a bar of one colour that ends at the dotted line. If a
    concept has more than one latent, it was split.""",
)
def calls(scores: pd.DataFrame, planted: int) -> Figure:
    """Draw the latents that each rule calls chat-only, by the kind of concept that they stand for.

    Bars are means over seeds. Marks are the number of all called latents for single seeds.
    """
    crosscoders, rules = list(dict.fromkeys(scores.crosscoder)), list(dict.fromkeys(scores.rule))
    figure, axes = panels(crosscoders, 5.0, 2.9, sharey=True)
    for ax, crosscoder in zip(axes, crosscoders, strict=True):
        of = scores[scores.crosscoder == crosscoder]
        mean = of.groupby("rule", sort=False).mean(numeric_only=True).loc[rules]
        left = np.zeros(len(rules))
        for kind, (colour, hatch, _) in KIND_LOOKS.items():
            width = mean[f"called_{kind}"].to_numpy()
            label = kind.replace("_", "-") if kind != "none" else "no planted concept"
            ax.barh(
                rules, width, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.4, label=label
            )
            left += width
        ax.plot(of.called, of.rule, ls="", marker="|", color="black", ms=9, label="all called, single seeds")
        for rule, end in zip(rules, left, strict=True):
            ax.annotate(
                f" F1 {mean.f1[rule]:.2f}",
                (max(end, of.called[of.rule == rule].max()), rule),
                va="center",
                fontsize=8,
            )
        ax.axvline(planted, color="black", lw=0.8, ls=":")
        ax.set(title=crosscoder, xlabel="latents called chat-only")
    axes[0].invert_yaxis()
    largest = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0, 1.18 * largest)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=5, fontsize=8)
    figure.suptitle(f"dotted: {planted} planted chat-only concepts", fontsize=8, x=0.99, ha="right")
    return figure


@captioned(
    "False members against recall of chat-only concepts, per crosscoder and seed",
    """Latents are called from the largest norm difference down. Blue is one line per seed, grey the lines of
    the other crosscoders, and a mark is where the chat-only class ends. Lower is better. Where a line ends,
    no further chat-only concept was found.""",
)
def false_members_against_recall(tables: Tables, planted: int) -> Figure:
    """Draw false members against recall, while latents are called from the largest norm difference down.

    There is a plot per crosscoder, with a line per seed. Marks show where the chat-only class ends.
    """
    names = _names(tables)
    figure, axes = panels(names, 3.6, 2.9, sharey=True)
    curves = {training: recall_curve(table, planted) for training, table in tables.items()}
    for ax, name in zip(axes, names, strict=True):
        for (crosscoder, _), curve in curves.items():
            if crosscoder != name:
                ax.plot(curve.recall, curve.false_members, color=GREY, lw=0.5, alpha=0.4)
        for (crosscoder, seed), table in tables.items():
            if crosscoder == name:
                curve = curves[crosscoder, seed]
                ax.plot(curve.recall, curve.false_members, color=BLUE, lw=1.3)
                called = int((table["class"] == "chat-only").sum())
                if called:
                    at = curve[curve.called <= called].iloc[-1]
                    ax.plot(at.recall, at.false_members, marker="o", color=VERMILION, ms=5)
        ax.set_yscale("symlog", linthresh=1)  # this scale also has a place for 0
        ax.set(xlim=(0, 1.02), ylim=(-0.1, None), title=name, xlabel="recall of chat-only concepts")
    label_rows(axes, "false members")
    return figure


@captioned(
    "ROC of norm difference, ν error and ν reconstruction, per crosscoder",
    """How well each statistic alone tells latents of chat-only concepts from those of other concepts. All
    seeds are taken together.""",
)
def roc(tables: Tables) -> Figure:
    """Draw the ROC of three statistics over latents that stand for a concept, all seeds together."""
    names = _names(tables)
    figure, axes = panels(names, 3.6, 3.4, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        compared = pd.concat([roc_latents(table) for table in _of(tables, name)])
        positive = (compared.kind == "chat_only").to_numpy()
        for statistic, colour, style in zip(STATISTICS, CYCLE, STYLES, strict=False):
            order = np.argsort(-evidence(compared, statistic), kind="stable")
            true = np.append(0, positive[order].cumsum() / max(positive.sum(), 1))
            false = np.append(0, (~positive[order]).cumsum() / max((~positive).sum(), 1))
            ax.plot(false, true, color=colour, ls=style, label=STATISTIC_NAMES[statistic])
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.7)
        ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="share of other concepts' latents")
        ax.set_title(f"{name}: {positive.sum()} chat-only, {(~positive).sum()} others")
        ax.legend(loc="lower right")
    label_rows(axes, "share of chat-only concepts' latents")
    return figure


@captioned(
    "Recovered against planted ratio of weakened concepts",
    """Does a ratio recover how much weaker a weakened concept is in the base? The dots are weakened concepts
    that were found. The grey area holds the borderline ones.""",
)
def ratios(tables: Tables, scoring: Scoring) -> Figure:
    """Draw estimated against planted ratios of weakened concepts, all seeds, a row per crosscoder."""
    names = _names(tables)
    figure, axes = plt.subplots(
        len(names), len(RATIO_NAMES), figsize=(9.4, 3.0 * len(names)), sharex=True, sharey=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        found = pd.concat([recovery(table) for table in _of(tables, name)])
        for ax, ratio in zip(row, RATIO_NAMES, strict=True):
            line = fit(found.ratio.to_numpy(), found[ratio].to_numpy(dtype=float))
            ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
            ax.scatter(found.ratio, found[ratio], s=10, color=BLUE, marker="o", lw=0, alpha=0.7)
            outside = int((~found[ratio].between(-0.2, 1.6)).sum())
            ax.axvspan(0, scoring.borderline_ratio, color=GREY, alpha=0.15, lw=0)
            text = f"slope {line['slope']:.2f}, $R^2$ {line['r2']:.3f}"
            text += f"\n{len(found)} latents, {outside} outside or undefined"
            ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=8)
            ax.set(xlim=(0, 1), ylim=(-0.2, 1.6))
        row[0].set_ylabel(f"{name}: estimate")
    for first, last, label in zip(axes[0], axes[-1], RATIO_NAMES.values(), strict=True):
        first.set_title(label)
        last.set_xlabel("planted ratio, base over chat")
    return figure


@captioned(
    "Norm difference against ν, by kind of planted concept",
    """The first seed. Where norm difference and ν agree, points fall on a line from the upper middle to the
    lower right. A high ν at a high norm difference is a trap.""",
)
def agreement(tables: Tables, classes: Classes, thresholds: LatentScaling) -> Figure:
    """Draw norm difference against both ratios by kind of concept, for latents of the first seed."""
    names = _names(tables)
    columns = {"nu_error": thresholds.nu_error_below, "nu_reconstruction": thresholds.nu_reconstruction_below}
    figure, axes = plt.subplots(
        len(names), 2, figsize=(8.6, 3.2 * len(names)), sharex=True, sharey=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        table = _of(tables, name)[0]
        usable = plausible(table)
        for ax, (statistic, threshold) in zip(row, columns.items(), strict=True):
            shown = usable[usable.called_kind != "none"]
            for kind, (colour, _, marker) in KIND_LOOKS.items():
                part = shown[shown.called_kind == kind]
                if len(part):
                    look: dict[str, Any] = {"s": 14, "lw": 0, "alpha": 0.8, "label": kind.replace("_", "-")}
                    x, y = part.relative_norm_difference, part[statistic]
                    ax.scatter(x, y, c=colour, marker=marker, **look)
            ax.axvline(classes.chat_only_above, color="black", lw=0.7, ls=":")
            ax.axhline(threshold, color="black", lw=0.7, ls=":")
            correlation = usable.relative_norm_difference.corr(usable[statistic])
            title = f"{name}, {STATISTIC_NAMES[statistic]}: correlation {correlation:.2f}"
            ax.set(xlim=(0, 1.01), ylim=NU_RANGE, title=title)
        row[0].set_ylabel(r"$\nu$")
    for ax in axes[-1]:
        ax.set_xlabel("relative decoder norm difference")
    handles = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=7, fontsize=8)
    return figure
