"""How well a crosscoder reconstructs held-out activations, and the class of every latent."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from crossdiff.activations.pairs import MODELS
from crossdiff.config import Classes, LatentScaling
from crossdiff.crosscoders.model import Crosscoder

CLASSES = ("base-only", "shared", "chat-only", "other", "dead")

NU_RANGE = (-0.1, 2.0)  # ratios outside are left out of plots, where they are counted, and of ranks (paper.md c.3)


def reconstruction_quality(crosscoder: Crosscoder, blocks: Iterable[Tensor]) -> tuple[dict[str, Any], np.ndarray]:
    """Over all of ``blocks`` (raw, (tokens, model, d_model)): tokens, FVE per model, L0; and how often each latent fired (latents,).

    FVE is 1 - sum_d Var(x - xhat) / sum_d Var(x) with variances over all tokens, not averaged over batches.
    """
    tokens, fired = 0, torch.zeros(crosscoder.latents, dtype=torch.long)
    sums = {name: torch.zeros(len(MODELS), crosscoder.d_model, dtype=torch.float64) for name in ("x", "x2", "e", "e2")}
    for block in blocks:
        x = crosscoder.normalise(block.to(crosscoder.decoder.device))
        codes = crosscoder.encode(x)
        error = x - crosscoder.decode(codes)
        for name, value in (("x", x), ("e", error)):
            sums[name] += value.double().sum(dim=0).cpu()
            sums[f"{name}2"] += value.double().square().sum(dim=0).cpu()
        fired += (codes > 0).sum(dim=0).cpu()
        tokens += len(x)
    variance = {name: (sums[f"{name}2"] / tokens - (sums[name] / tokens).square()).sum(dim=1) for name in ("x", "e")}
    fve = (1 - variance["e"] / variance["x"]).tolist()
    quality = {"tokens": tokens, "l0": fired.sum().item() / tokens} | {f"fve_{m}": value for m, value in zip(MODELS, fve, strict=True)}
    return quality, fired.numpy()


def classify(difference: np.ndarray, fired: np.ndarray, classes: Classes) -> np.ndarray:
    """The class of each latent from its relative decoder norm difference; "dead" if it did not fire on held-out text (paper.md b, g.7)."""
    low, high = classes.shared_between
    names = np.select(
        [
            fired == 0,
            difference <= classes.base_only_below,
            difference >= classes.chat_only_above,
            (difference >= low) & (difference <= high),
        ],
        ["dead", "base-only", "chat-only", "shared"],
        "other",
    )
    return names.astype(object)


def confirmed(betas: pd.DataFrame, scaling: LatentScaling) -> pd.Series:
    """Latents that latent scaling calls chat-specific: both ratios below their thresholds. Undefined ratios do not confirm."""
    return (betas.nu_reconstruction < scaling.nu_reconstruction_below) & (betas.nu_error < scaling.nu_error_below)


def beta_table(scaling: pd.DataFrame, fired: pd.DataFrame, classes: Classes, thresholds: LatentScaling) -> pd.DataFrame:
    """The scaling table with the columns validation_active_tokens, class and confirmed."""
    table = scaling.merge(fired, on="latent", validate="one_to_one")
    table["class"] = classify(table.relative_norm_difference.to_numpy(), table.validation_active_tokens.to_numpy(), classes)
    table["confirmed"] = confirmed(table, thresholds)
    return table


def evaluate(betas: pd.DataFrame, quality: dict[str, Any], classes: Classes) -> dict[str, Any]:
    """The headline numbers of one crosscoder, from its beta table and reconstruction quality."""
    live = betas[betas["class"] != "dead"]
    top = most_chat_leaning(betas, classes.top)
    return quality | {
        "latents": len(betas),
        "classes": {name: int((betas["class"] == name).sum()) for name in CLASSES},
        "chat_only_confirmed": int(betas[betas["class"] == "chat-only"].confirmed.sum()),
        "undefined_ratios": int(live[["nu_error", "nu_reconstruction"]].isna().any(axis=1).sum()),
        "largest_norm_difference": _or_none(live.relative_norm_difference.max()),
        "top": len(top),
        "top_smallest_norm_difference": _or_none(top.relative_norm_difference.min()),
        "top_confirmed": int(top.confirmed.sum()),
        "top_median_nu_error": _or_none(top.nu_error.median()),
        "top_median_nu_reconstruction": _or_none(top.nu_reconstruction.median()),
    }


def comparison(evaluations: list[dict[str, Any]], names: list[tuple[str, int]]) -> pd.DataFrame:
    """One row per crosscoder and seed: the headline numbers, classes in columns of their own."""
    rows = []
    for evaluation, (crosscoder, seed) in zip(evaluations, names, strict=True):
        counts = {name.replace("-", "_"): count for name, count in evaluation["classes"].items()}
        rows.append({"crosscoder": crosscoder, "seed": seed} | {k: v for k, v in evaluation.items() if k != "classes"} | counts)
    return pd.DataFrame(rows)


def most_chat_leaning(betas: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` live latents with the largest relative decoder norm difference: a set of equal size for every loss."""
    live = betas[betas["class"] != "dead"]
    return live.sort_values(["relative_norm_difference", "latent"], ascending=[False, True]).head(count)


def ranked_by_scaling(betas: pd.DataFrame) -> pd.DataFrame:
    """Latents by rank(nu_reconstruction) + rank(nu_error), the most chat-specific first (paper.md c.3).

    Latents with a ratio that is undefined or outside of ``NU_RANGE`` have no rank and are left out.
    """
    ranked = within_nu_range(betas)
    rank_sum = ranked.nu_reconstruction.rank() + ranked.nu_error.rank()
    return ranked.assign(rank_sum=rank_sum).sort_values(["rank_sum", "latent"]).drop(columns="rank_sum")


def within_nu_range(betas: pd.DataFrame) -> pd.DataFrame:
    """The latents whose two ratios lie in ``NU_RANGE``; an undefined ratio does not."""
    return betas[betas.nu_error.between(*NU_RANGE) & betas.nu_reconstruction.between(*NU_RANGE)]


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
