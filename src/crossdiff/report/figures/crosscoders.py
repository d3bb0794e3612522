"""Figures of crosscoders: their training, and their latents by decoder norm, latent scaling and template tokens."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.config import Classes, LatentScaling
from crossdiff.latents.evaluation import NU_RANGE, most_chat_leaning, plausible
from crossdiff.latents.template_tokens import A_THIRD, MOSTLY, headlines, shares_by_set
from crossdiff.report.figures.drawing import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    STYLES,
    VERMILION,
    captioned,
    cycle,
    panels,
)


def _live(betas: pd.DataFrame) -> pd.DataFrame:
    return betas[betas["class"] != "dead"]


@captioned(
    "Histograms of the relative decoder norm difference per crosscoder",
    """How much of each latent's decoder belongs to the chat model (count on a log axis). A healthy run has most latents near
    ½. What lies far right claims to exist in the chat model only; the next figure tests that claim.""",
)
def norm_difference(betas: Mapping[str, pd.DataFrame], classes: Classes) -> Figure:
    """Live latents, one column per crosscoder: histogram of the relative decoder norm difference with the class borders, and below it the
    cosine of each latent's base and chat directions, class by class."""
    figure, (upper, lower) = plt.subplots(
        2, len(betas), figsize=(max(5.0, 3.6 * len(betas)), 5.2), squeeze=False, sharey="row"
    )
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
        for label, left, right, colour, x, align in regions:
            count = int((live["class"] == label).sum())
            ax.axvspan(left, right, color=colour, alpha=0.18, lw=0)
            ax.text(
                x,
                0.98,
                f"{label}\n{count}",
                ha=align,
                va="top",
                fontsize=7,
                transform=ax.get_xaxis_transform(),
            )
        counts, _, _ = ax.hist(
            live.relative_norm_difference,
            bins=np.linspace(0, 1, 51),
            color=BLUE,
            edgecolor="white",
            linewidth=0.3,
        )
        highest = max(highest, counts.max())
        ax.set(xlim=(0, 1), xlabel="relative decoder norm difference\n(0 base-only, 1 chat-only)")
        ax.set_title(f"{name}: {len(live):,} live of {len(table):,} latents")
    upper[0].set(ylabel="latents", ylim=(0.7, 8 * highest))
    for ax, table in zip(lower, betas.values(), strict=True):
        _decoder_cosines(ax, _live(table))
    lower[0].set(ylabel="share of the class")
    return figure


def _decoder_cosines(ax: plt.Axes, live: pd.DataFrame) -> None:
    looks = (
        ("shared", GREY, "-"),
        ("other", GREEN, "-."),
        ("base-only", ORANGE, ":"),
        ("chat-only", BLUE, "--"),
    )
    for label, colour, style in looks:
        cosines = live.decoder_cosine[live["class"] == label].clip(-1, 1)  # rounding may exceed 1
        if len(cosines):
            weights = np.full(len(cosines), 1 / len(cosines))
            ax.hist(
                cosines,
                bins=np.linspace(-1, 1, 41),
                weights=weights,
                histtype="step",
                color=colour,
                ls=style,
                label=f"{label} ({len(cosines)})",
            )
    ax.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 5), xlabel="cosine of base and chat direction")
    if ax.has_data():
        ax.legend(loc="upper left", fontsize=7)


@captioned(
    "ν error against ν reconstruction, chat-leaning and shared latents, per crosscoder",
    """Latent scaling. Both ratios are near 0 for a latent that only the chat model needs and near 1 for a shared one. Top of
    the plot: the base decoder shrank although the base model uses the latent (complete shrinkage). Right: other latents
    do its work in the base model (latent decoupling). Dotted: the thresholds of a confirmed latent, at the lower left.""",
)
def latent_scaling(
    betas: Mapping[str, pd.DataFrame],
    classes: Classes,
    latent_scaling: LatentScaling,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> Figure:
    """nu_error against nu_reconstruction with marginal histograms: the most chat-leaning latents, chat-only ones and shared ones.

    ``names`` of latents, by crosscoder, are written beside their points.
    """
    figure = plt.figure(figsize=(4.2 * len(betas), 4.3))
    for part, (name, table) in zip(
        figure.subfigures(1, len(betas), squeeze=False)[0], betas.items(), strict=True
    ):
        top = most_chat_leaning(table, classes.top)
        groups = (
            ("shared", table[table["class"] == "shared"], GREY, ".", 5),
            (f"{len(top)} most chat-leaning", top, BLUE, "o", 14),
            ("chat-only", table[table["class"] == "chat-only"], VERMILION, "^", 22),
        )
        axes = part.subplot_mosaic([["x", "."], ["main", "y"]], width_ratios=(4, 1), height_ratios=(1, 4))
        main, bins, left_out = axes["main"], np.linspace(*NU_RANGE, 43), set()
        for label, group, colour, marker, size in groups:
            shown = plausible(group)
            left_out |= set(group.latent) - set(shown.latent)
            main.scatter(
                shown.nu_reconstruction,
                shown.nu_error,
                s=size,
                c=colour,
                marker=marker,
                lw=0,
                alpha=0.75,
                label=f"{label} ({len(shown)})",
                rasterized=True,
            )
            if len(shown):
                weights = np.full(len(shown), 1 / len(shown))
                style = {"bins": bins, "weights": weights, "histtype": "step", "color": colour}
                axes["x"].hist(shown.nu_reconstruction, **style)
                axes["y"].hist(shown.nu_error, orientation="horizontal", **style)
        for row in plausible(table[table.latent.isin((names or {}).get(name, {}))]).itertuples():
            place = (row.nu_reconstruction, row.nu_error)
            main.annotate(
                f"{names[name][row.latent]} ({row.latent})",
                place,
                (7, 7),
                textcoords="offset points",
                fontsize=7,
                arrowprops={"arrowstyle": "-"},
            )
        main.axvline(latent_scaling.nu_reconstruction_below, color="black", lw=0.7, ls=":")
        main.axhline(latent_scaling.nu_error_below, color="black", lw=0.7, ls=":")
        main.set(
            xlim=NU_RANGE,
            ylim=NU_RANGE,
            xlabel=r"$\nu$ reconstruction (high: decoupled)",
            ylabel=r"$\nu$ error (high: shrunk)",
        )
        main.legend(loc="upper left", fontsize=7)
        axes["x"].set(xlim=NU_RANGE, xticks=[], yticks=[])
        axes["y"].set(ylim=NU_RANGE, xticks=[], yticks=[])
        for side in ("left",), ("bottom",):
            axes["x" if side == ("left",) else "y"].spines[list(side)].set_visible(False)
        axes["x"].set_title(f"{name} ({len(left_out)} undefined or out of range)", fontsize=9)
    return figure


@captioned(
    "Number of confirmed latents against the threshold",
    """How many of the most chat-leaning latents survive a threshold on both ratios. The curve that rises first holds the
    more truly chat-specific latents.""",
)
def threshold_sweep(betas: Mapping[str, pd.DataFrame], classes: Classes) -> Figure:
    """How many of the most chat-leaning latents have both |nu| below a threshold, as it grows (docs/method.md 10)."""
    figure, (ax,) = panels(["sweep"], width=7.2)
    grid = np.linspace(0, 1.2, 241)
    for (name, table), colour, style in zip(
        betas.items(), cycle(CYCLE, len(betas)), cycle(STYLES, len(betas)), strict=True
    ):
        top = most_chat_leaning(table, classes.top)
        worst = top[["nu_error", "nu_reconstruction"]].abs().max(axis=1, skipna=False).to_numpy()
        ax.plot(
            grid,
            [(worst < threshold).sum() for threshold in grid],
            color=colour,
            ls=style,
            label=f"{name} (of {len(top)})",
        )
    ax.set(
        xlim=(0, 1.2),
        ylim=(0, None),
        xlabel=r"threshold on both $|\nu|$",
        ylabel="latents below the threshold",
    )
    ax.set_title(f"the {classes.top} most chat-leaning latents of each crosscoder")
    ax.legend(loc="upper left")
    return figure


@captioned(
    "Share of each latent's activations on template tokens, per crosscoder",
    """How much of each latent's activity falls on tokens of the chat template, compared with the share of such tokens in the
    text.""",
)
def template_tokens(
    betas: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    tokens_read: Mapping[str, Mapping[str, int]],
    classes: Classes,
) -> Figure:
    """Per crosscoder and set of latents: the share of latents with at least so much of their activity in chats on template tokens.

    ``tables`` and ``tokens_read`` are those of latents.template_tokens.
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
            text = f"{label} ({row.latents:.0f})"
            if len(shares):
                text += f": {100 * row.mostly_on_template:.0f} % mostly, {100 * row.at_least_a_third:.0f} % at least a third"
            # 1 up to the smallest share, 0 after the largest
            x, y = (
                np.concatenate([[0], shares, [1]]),
                np.concatenate([[1], np.arange(len(shares), 0, -1) / max(len(shares), 1), [0]]),
            )
            ax.step(
                x,
                y if len(shares) else np.full(2, np.nan),
                where="pre",
                color=colour,
                ls=style,
                lw=width,
                label=text,
            )
        base_rate = shown.text_share.iloc[0]
        ax.axvline(
            base_rate,
            color="black",
            lw=0.9,
            label=f"all tokens of chats: {100 * base_rate:.0f} % are template",
        )
        for border in (A_THIRD, MOSTLY):
            ax.axvline(border, color="black", lw=0.5, ls=(0, (1, 3)))
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of activations in chats on template tokens")
        ax.set_title(name)
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.18), fontsize=8)
    axes[0].set(ylabel="latents with at least that share")
    return figure


@captioned(
    "FVE, L0 and silent latents over training",
    """Training. FVE and L0 should have levelled off; if not, the run was too short.""",
)
def training(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """FVE of both models, L0 and silent latents over training tokens, all crosscoders in one plot each."""
    figure, (fve, l0, dead) = panels(["fve", "l0", "dead"], width=3.1)
    for (name, log), colour, style in zip(
        logs.items(), cycle(CYCLE, len(logs)), cycle(STYLES, len(logs)), strict=True
    ):
        tokens = log.tokens / 1e6
        fve.plot(
            tokens, log.fve_base, color=colour, ls=style, lw=0.9, marker="o", ms=2.5, label=f"{name}, base"
        )
        fve.plot(tokens, log.fve_chat, color=colour, ls=style, lw=1.8, label=f"{name}, chat")
        l0.plot(tokens, log.l0, color=colour, ls=style, label=name)
        dead.plot(tokens, log.dead, color=colour, ls=style, label=name)
    fve.set(ylim=(min(0.5, fve.get_ylim()[0]), 1), title="fraction of variance explained")
    fve.legend(fontsize=7, loc="lower right")
    l0.set(title="L0: active latents per token")
    if any((log.l0 > 0).any() for log in logs.values()):
        l0.set_yscale("log")
    l0.legend(fontsize=7)
    dead.set(title="latents silent since the last row", ylim=(0, None))
    for ax in (fve, l0, dead):
        ax.set_xlabel("training tokens (millions)")
    return figure
