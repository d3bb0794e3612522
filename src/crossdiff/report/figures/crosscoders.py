"""Draws crosscoders: their training, decoder norms, latent scaling and template tokens."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossdiff.config import Classes, LatentScaling
from crossdiff.latents.applies import reason
from crossdiff.latents.evaluation import NU_RANGE, confirmed_latents, most_chat_leaning, plausible
from crossdiff.latents.template_tokens import A_THIRD, MOSTLY, headlines, shares_by_set
from crossdiff.report.figures.drawing import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    PER_ROW,
    STYLES,
    VERMILION,
    captioned,
    cycle,
    label_rows,
    panels,
    say_missing,
    stacks,
)


def _live(betas: pd.DataFrame) -> pd.DataFrame:
    return betas[betas["class"] != "dead"]


@captioned(
    "Histograms of the relative decoder norm difference per crosscoder",
    """How much of each latent's decoder belongs to the chat model (counts on a log axis). In a healthy run
    most latents lie near ½. Latents far on the right claim to exist in the chat model only. The next figure
    tests that claim.""",
)
def norm_difference(betas: Mapping[str, pd.DataFrame], classes: Classes) -> Figure:
    """Draw the live latents, two plots per crosscoder.

    Above is the histogram of the relative decoder norm difference with the class borders. Where the loss sets
    norm differences, the classes say of how many latents. Below is the cosine of each latent's base and chat
    directions, class by class.
    """
    figure, (upper, lower) = stacks(list(betas), (2.6, 2.6))
    upper[0].set(yscale="log", ylim=(0.7, 80))
    highest = 10.0
    low, high = classes.shared_between
    regions = (
        ("base-only", 0, classes.base_only_below, ORANGE, 0.01, "left"),
        ("shared", low, high, GREY, (low + high) / 2, "center"),
        ("chat-only", classes.chat_only_above, 1, BLUE, 0.99, "right"),
    )
    for ax, (name, table) in zip(upper, betas.items(), strict=True):
        live = _live(table)
        ax.set(xlim=(0, 1), xlabel="relative decoder norm difference\n(0 base-only, 1 chat-only)")
        ax.set_title(f"{name}: {len(live):,} live of {len(table):,} latents")
        if why := reason(table):
            say_missing(ax, why)
            continue
        for label, left, right, colour, x, align in regions:
            of_class = live[live["class"] == label]
            ax.axvspan(left, right, color=colour, alpha=0.18, lw=0)
            place: dict[str, Any] = {"ha": align, "va": "top", "transform": ax.get_xaxis_transform()}
            by_loss = f"\n{of_class.norms_set.sum()} set" if "norms_set" in live else ""
            ax.text(x, 0.98, f"{label}\n{len(of_class)}{by_loss}", fontsize=7, **place)
        look: dict[str, Any] = {"color": BLUE, "edgecolor": "white", "linewidth": 0.3}
        counts, _, _ = ax.hist(live.relative_norm_difference, bins=np.linspace(0, 1, 51).tolist(), **look)
        highest = max(highest, np.max(counts))
    upper[0].set_ylim(0.7, 8 * highest)
    label_rows(upper, "latents")
    for ax, table in zip(lower, betas.values(), strict=True):
        _decoder_cosines(ax, _live(table))
    label_rows(lower, "share of the class")
    return figure


def _decoder_cosines(ax: plt.Axes, live: pd.DataFrame) -> None:
    looks = (
        ("shared", GREY, "-"),
        ("other", GREEN, "-."),
        ("base-only", ORANGE, ":"),
        ("chat-only", BLUE, "--"),
    )
    for label, colour, style in looks:
        # Rounding may exceed 1. A direction that is 0 has no cosine.
        cosines = live.decoder_cosine[live["class"] == label].dropna().clip(-1, 1)
        if len(cosines):
            bins, weights = np.linspace(-1, 1, 41).tolist(), np.full(len(cosines), 1 / len(cosines))
            look: dict[str, Any] = {"histtype": "step", "color": colour, "ls": style}
            ax.hist(cosines, bins=bins, weights=weights, label=f"{label} ({len(cosines)})", **look)
    ax.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 5), xlabel="cosine of base and chat direction")
    if why := reason(live):
        say_missing(ax, why)
    elif ax.has_data():
        ax.legend(loc="upper left", fontsize=7)


@captioned(
    "ν error against ν reconstruction, chat-leaning and shared latents, per crosscoder",
    """Latent scaling. Both ratios are near 0 for a latent that only the chat model needs, and near 1 for a
    shared one. At the top the base decoder shrank although the base model uses the latent (complete
    shrinkage). On the right other latents do its work in the base model (latent decoupling). Dotted lines are
    the thresholds. Every confirmed latent of the chat model, below and left of both, has a ring.""",
)
def latent_scaling(
    betas: Mapping[str, pd.DataFrame],
    classes: Classes,
    latent_scaling: LatentScaling,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> Figure:
    """Draw nu_error against nu_reconstruction with marginal histograms.

    It shows the most chat-leaning latents, chat-only ones, shared ones, and all confirmed ones but base-only
    ones, whose ratios are others. ``names`` of latents, by crosscoder, are written next to their points.
    """
    columns, lines = min(len(betas), PER_ROW), math.ceil(len(betas) / PER_ROW)
    figure = plt.figure(figsize=(4.2 * columns, 4.3 * lines))
    parts = figure.subfigures(lines, columns, squeeze=False).flatten()
    for part, (name, table) in zip(parts, betas.items(), strict=False):
        given = (names or {}).get(name, {})
        top = most_chat_leaning(table, classes.top)
        groups = (
            ("shared", table[table["class"] == "shared"], GREY, ".", 5),
            (f"{len(top)} most chat-leaning", top, BLUE, "o", 14),
            ("chat-only", table[table["class"] == "chat-only"], VERMILION, "^", 22),
        )
        axes = part.subplot_mosaic([["x", "."], ["main", "y"]], width_ratios=(4, 1), height_ratios=(1, 4))
        main, bins, left_out = axes["main"], np.linspace(*NU_RANGE, 43), set()
        if why := reason(table):
            say_missing(main, why)
        for label, group, colour, marker, size in () if why else groups:
            shown = plausible(group)
            left_out |= set(group.latent) - set(shown.latent)
            look = {"s": size, "c": colour, "marker": marker, "lw": 0, "alpha": 0.75, "rasterized": True}
            label = f"{label} ({len(shown)})"
            main.scatter(shown.nu_reconstruction, shown.nu_error, label=label, **look)
            if len(shown):
                weights = np.full(len(shown), 1 / len(shown))
                style = {"bins": bins, "weights": weights, "histtype": "step", "color": colour}
                axes["x"].hist(shown.nu_reconstruction, **style)
                axes["y"].hist(shown.nu_error, orientation="horizontal", **style)
        if not why:
            sure = confirmed_latents(table)
            sure = sure[sure["class"] != "base-only"]
            ring: dict[str, Any] = {"s": 46, "facecolors": "none", "edgecolors": GREEN, "linewidths": 1.2}
            label = f"confirmed ({len(sure)})"
            main.scatter(sure.nu_reconstruction, sure.nu_error, label=label, rasterized=True, **ring)
        for row in plausible(table[table.latent.isin(given)]).itertuples():
            place, text = (row.nu_reconstruction, row.nu_error), f"{given[row.latent]} ({row.latent})"
            look = {"textcoords": "offset points", "fontsize": 7, "arrowprops": {"arrowstyle": "-"}}
            main.annotate(text, place, (7, 7), **look)
        main.axvline(latent_scaling.nu_reconstruction_below, color="black", lw=0.7, ls=":")
        main.axhline(latent_scaling.nu_error_below, color="black", lw=0.7, ls=":")
        main.set(
            xlim=NU_RANGE,
            ylim=NU_RANGE,
            xlabel=r"$\nu$ reconstruction (high: decoupled)",
            ylabel=r"$\nu$ error (high: shrunk)",
        )
        if not why:
            main.legend(loc="upper left", fontsize=7)
        axes["x"].set(xlim=NU_RANGE, xticks=[], yticks=[])
        axes["y"].set(ylim=NU_RANGE, xticks=[], yticks=[])
        for side in ("left",), ("bottom",):
            axes["x" if side == ("left",) else "y"].spines[list(side)].set_visible(False)
        outside = f" ({len(left_out)} undefined or out of range)" if not why else ""
        axes["x"].set_title(name + outside, fontsize=9)
    return figure


@captioned(
    "Number of confirmed latents against the threshold",
    """How many of the most chat-leaning latents have both ratios below a threshold. The crosscoder whose
    curve rises first has more latents that are specific to the chat model.""",
)
def threshold_sweep(betas: Mapping[str, pd.DataFrame], classes: Classes) -> Figure:
    """Draw how many of the most chat-leaning latents have both |nu| below a threshold (docs/method.md 10)."""
    figure, (ax,) = panels(["sweep"], width=7.2)
    grid = np.linspace(0, 1.2, 241)
    looks = zip(cycle(CYCLE, len(betas)), cycle(STYLES, len(betas)), strict=True)
    for (name, table), (colour, style) in zip(betas.items(), looks, strict=True):
        if reason(table):
            ax.plot([], [], color=colour, ls=style, label=f"{name}: does not apply")
            continue
        top = most_chat_leaning(table, classes.top)
        worst = top[["nu_error", "nu_reconstruction"]].abs().max(axis=1, skipna=False).to_numpy()
        below = [(worst < threshold).sum() for threshold in grid]
        ax.plot(grid, below, color=colour, ls=style, label=f"{name} (of {len(top)})")
    ax.set(xlim=(0, 1.2), ylim=(0, None))
    ax.set(xlabel=r"threshold on both $|\nu|$", ylabel="latents below the threshold")
    ax.set_title(f"the {classes.top} most chat-leaning latents of each crosscoder")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@captioned(
    "Share of each latent's activations on template tokens, per crosscoder",
    """How much of each latent's activity in chats falls on tokens of the chat template. The solid vertical
    line is the share of such tokens in all chats.""",
)
def template_tokens(
    betas: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    tokens_read: Mapping[str, dict[str, int]],
    classes: Classes,
) -> Figure:
    """Draw the share of latents against the share of their activity on template tokens, set by set.

    Only activity in chats counts. A curve gives the latents that have at least that share. ``tables`` and
    ``tokens_read`` are those of latents.template_tokens.
    """
    figure, axes = panels(list(betas), width=4.2, height=3.9, sharey=True)
    looks = {
        "shared": (GREY, "-", 1.2),
        "most chat-leaning": (BLUE, "--", 1.6),
        "chat-only": (VERMILION, ":", 2.2),
    }
    for ax, (name, table) in zip(axes, betas.items(), strict=True):
        sets = shares_by_set(table, tables[name], classes.top)
        shown = headlines(table, tables[name], tokens_read[name], classes.top).set_index("set")
        for label, (colour, style, width) in looks.items():
            row, shares = shown.loc[label], np.sort(sets[label])
            if pd.isna(row.latents):  # no base decoder, so no classes
                ax.plot([], [], color=colour, ls=style, lw=width, label=f"{label}: does not apply")
                continue
            text = f"{label} ({row.latents:.0f})"
            if len(shares):
                text += f": {100 * row.mostly_on_template:.0f} % mostly"
                text += f", {100 * row.at_least_a_third:.0f} % at least a third"
            # A curve is 1 up to the smallest share and 0 after the largest.
            x, steps = np.concatenate([[0], shares, [1]]), np.arange(len(shares), 0, -1) / max(len(shares), 1)
            y = np.concatenate([[1], steps, [0]]) if len(shares) else np.full(2, np.nan)
            ax.step(x, y, where="pre", color=colour, ls=style, lw=width, label=text)
        base_rate = shown.text_share.iloc[0]
        text = f"all tokens of chats: {100 * base_rate:.0f} % are template"
        ax.axvline(base_rate, color="black", lw=0.9, label=text)
        for border in (A_THIRD, MOSTLY):
            ax.axvline(border, color="black", lw=0.5, ls=(0, (1, 3)))
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of activations in chats on template tokens")
        ax.set_title(name)
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.18), fontsize=8)
    label_rows(axes, "latents with at least that share")
    return figure


@captioned(
    "FVE, L0 and silent latents over training",
    """Training. FVE and L0 should level off. If they do not, the run was too short.""",
)
def training(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw FVE of both models, L0 and silent latents over training tokens, for all crosscoders."""
    figure, (fve, l0, dead) = panels(["fve", "l0", "dead"], width=3.1)
    looks = zip(cycle(CYCLE, len(logs)), cycle(STYLES, len(logs)), strict=True)
    thick: dict[str, Any] = {"lw": 1.8}
    of_model = {"base": {"lw": 0.9, "marker": "o", "ms": 2.5}, "chat": thick, "difference": thick}
    for (name, log), (colour, style) in zip(logs.items(), looks, strict=True):
        tokens = log.tokens / 1e6
        for of, look in of_model.items():
            if f"fve_{of}" in log:
                fve.plot(tokens, log[f"fve_{of}"], color=colour, ls=style, **look)
        l0.plot(tokens, log.l0, color=colour, ls=style, label=name)
        dead.plot(tokens, log.dead, color=colour, ls=style)
    fve.set(ylim=(min(0.5, fve.get_ylim()[0]), 1), title="fraction of variance explained")
    l0.set(title="L0: active latents per token")
    if any((log.l0 > 0).any() for log in logs.values()):
        l0.set_yscale("log")
    # Below all plots, because no place within them is free of curves.
    models = [of for of in of_model if any(f"fve_{of}" in log for log in logs.values())]
    shown = [Line2D([], [], color=GREY, label=f"FVE: {of}", **of_model[of]) for of in models]
    handles = [*l0.get_legend_handles_labels()[0], *shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=7, handlelength=3.5)
    dead.set(title="latents silent since the last row", ylim=(0, None))
    for ax in (fve, l0, dead):
        ax.set_xlabel("training tokens (millions)")
    return figure
