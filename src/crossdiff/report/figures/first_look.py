"""Draws how two models differ over the layers."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from crossdiff.report.figures.drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, captioned


@captioned(
    "Relative difference and cosine, KL of patched runs, and norms of both models, over the layers",
    """How the models differ over the layers. Left: the size of the difference relative to the base's
    activations, and the cosine of both. Middle: the KL to the chat model that is left when the base's
    activations at the layer go through the rest of the chat model. It rises as more of what the fine-tune
    changed lies before the layer. Right: median norms, on a log axis. The dotted line is the suggested
    layer.""",
)
def over_layers(layers: pd.DataFrame, suggested: int) -> Figure:
    """Draw the table of ``first_look.layers.layer_table`` with its column ``kl_patched``."""
    figure, axes = plt.subplots(1, 3, figsize=(10.0, 2.9))
    left, middle, right = axes.tolist()
    left.plot(layers.layer, layers.relative_difference, color=VERMILION, marker="o", ms=3, label="difference")
    left.plot(layers.layer, layers.cosine, color=BLUE, ls="--", marker="s", ms=3, label="cosine")
    left.set(ylabel="relative difference, cosine", ylim=(min(0, layers.cosine.min()), None))
    left.legend(fontsize=8)
    patched = layers[layers.kl_patched.notna()]
    if patched.empty:
        text = "no conversation"
        middle.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, transform=middle.transAxes)
    else:
        middle.plot(patched.layer, patched.kl_patched, color=GREEN, marker="o", ms=3)
    middle.set(ylabel="KL left (nats per answer token)", ylim=(0, None))
    right.plot(layers.layer, layers.norm_base, color=GREY, marker="o", ms=3, label="base")
    right.plot(layers.layer, layers.norm_chat, color=ORANGE, ls="--", marker="s", ms=3, label="chat")
    right.set(ylabel="median norm", yscale="log")
    right.legend(fontsize=8)
    for ax in (left, middle, right):
        ax.set_xlabel("layer")
        ax.axvline(suggested, color="black", lw=0.8, ls=":")
    return figure
