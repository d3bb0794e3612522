"""The class of every latent, and what a crosscoder comes to in numbers. Without torch, which figures need not wait for."""

from typing import Any

import numpy as np
import pandas as pd

from crossdiff.config import Classes, LatentScaling
from crossdiff.intervals import ENDS

CLASSES = ("base-only", "shared", "chat-only", "other", "dead")
NU_RANGE = (-0.1, 2.0)  # ratios outside are left out of plots and rankings, and counted (docs/method.md 10)
SAMPLE_SEED = 42  # of the random sample of shared latents (docs/method.md 10)


def classify(difference: np.ndarray, fired: np.ndarray, classes: Classes) -> np.ndarray:
    """The class of each latent from its relative decoder norm difference; "dead" if it did not fire on held-out text (docs/method.md 8)."""
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


def beta_table(
    scaling: pd.DataFrame, fired: pd.DataFrame, classes: Classes, thresholds: LatentScaling
) -> pd.DataFrame:
    """The scaling table with validation_active_tokens, class and what latent scaling says of model-specific claims (docs/method.md 9).

    confirmed: ``confirms`` both ratios (of base-only latents the mirrored ones); confirmed_95: and both ends of their intervals (nu only).
    complete_shrinkage: nu_error is not below its threshold; latent_decoupling: nu_reconstruction is not below. Undefined ratios confirm
    nothing and accuse of nothing, implausibly low ones confirm nothing.
    """
    table = scaling.merge(fired, on="latent", validate="one_to_one")
    table["class"] = classify(
        table.relative_norm_difference.to_numpy(), table.validation_active_tokens.to_numpy(), classes
    )
    base_only = table["class"] == "base-only"
    error = table.nu_error.mask(base_only, table.mirrored_nu_error)
    reconstruction = table.nu_reconstruction.mask(base_only, table.mirrored_nu_reconstruction)
    below = thresholds.nu_error_below, thresholds.nu_reconstruction_below
    table["confirmed"] = confirms(error, reconstruction, *below)
    ends = [
        confirms(table[f"nu_error_{end}"], table[f"nu_reconstruction_{end}"], *below)
        for end in ("low", "high")
    ]
    table["confirmed_95"] = table.confirmed & ends[0] & ends[1] & ~base_only
    table["complete_shrinkage"] = error >= thresholds.nu_error_below
    table["latent_decoupling"] = reconstruction >= thresholds.nu_reconstruction_below
    return table


def confirms(
    nu_error: pd.Series, nu_reconstruction: pd.Series, error_below: float, reconstruction_below: float
) -> pd.Series:
    """Whether both ratios lie below their thresholds, and not below NU_RANGE: a base model that needs the opposite needs something."""
    lowest = NU_RANGE[0]
    return nu_error.between(lowest, error_below, inclusive="left") & nu_reconstruction.between(
        lowest, reconstruction_below, inclusive="left"
    )


def plausible(table: pd.DataFrame) -> pd.DataFrame:
    """Latents whose two ratios are defined and within NU_RANGE: what plots and rankings use (docs/method.md 10)."""
    return table[table.nu_error.between(*NU_RANGE) & table.nu_reconstruction.between(*NU_RANGE)]


def evaluate(betas: pd.DataFrame, quality: dict[str, Any], classes: Classes) -> dict[str, Any]:
    """The headline numbers of one crosscoder, from its beta table and reconstruction quality.

    Two sets claim to be chat-specific: the class chat-only, and ``top``, the effective set of equal size for every loss. ``shared`` is a
    random sample of as many shared latents, the control. ``inside_shared``: the share of a set whose nu_reconstruction lies in the
    central 95 % of the shared latents'. Correlations (Pearson) of ratios with the norm difference are over live latents with plausible
    ratios.
    """
    live = betas[betas["class"] != "dead"]
    usable = plausible(live)
    top = most_chat_leaning(betas, classes.top)
    shared = live[live["class"] == "shared"]
    control = shared.sample(min(len(top), len(shared)), random_state=SAMPLE_SEED)
    defined = live[["nu_error", "nu_reconstruction"]].notna().all(axis=1)
    base_only = live[live["class"] == "base-only"]
    difference = usable.relative_norm_difference
    return quality | {
        "latents": len(betas),
        "classes": {name: int((betas["class"] == name).sum()) for name in CLASSES},
        "base_only_confirmed": int(base_only.confirmed.sum()),
        "undefined_ratios": int((~defined).sum()),
        "implausible_ratios": int(defined.sum()) - len(usable),
        "largest_norm_difference": _or_none(live.relative_norm_difference.max()),
        "correlation_nu_error": _or_none(difference.corr(usable.nu_error)),
        "correlation_nu_reconstruction": _or_none(difference.corr(usable.nu_reconstruction)),
        "top": len(top),
        "top_smallest_norm_difference": _or_none(top.relative_norm_difference.min()),
        **_verdicts("chat_only", live[live["class"] == "chat-only"], shared),
        **_verdicts("top", top, shared),
        **_verdicts("shared", control, shared),
    }


def _verdicts(name: str, latents: pd.DataFrame, shared: pd.DataFrame) -> dict[str, Any]:
    """What latent scaling says of a set of latents."""
    low, high = shared.nu_reconstruction.quantile(list(ENDS))
    ratios = latents.nu_reconstruction.dropna()
    flags = ("confirmed", "confirmed_95", "complete_shrinkage", "latent_decoupling")
    return {f"{name}_{flag}": int(latents[flag].sum()) for flag in flags} | {
        f"{name}_median_nu_error": _or_none(latents.nu_error.median()),
        f"{name}_median_nu_reconstruction": _or_none(latents.nu_reconstruction.median()),
        f"{name}_inside_shared": _or_none(ratios.between(low, high).mean()) if len(shared) else None,
        f"{name}_median_control_beta_error": _or_none(latents.control_beta_error_chat.abs().median()),
    }


def comparison(evaluations: list[dict[str, Any]], names: list[tuple[str, int]]) -> pd.DataFrame:
    """One row per crosscoder and seed: the headline numbers, classes in columns of their own."""
    rows = []
    for evaluation, (crosscoder, seed) in zip(evaluations, names, strict=True):
        counts = {name.replace("-", "_"): count for name, count in evaluation["classes"].items()}
        rows.append(
            {"crosscoder": crosscoder, "seed": seed}
            | {k: v for k, v in evaluation.items() if k != "classes"}
            | counts
        )
    return pd.DataFrame(rows)


def most_chat_leaning(betas: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` live latents with the largest relative decoder norm difference: a set of equal size for every loss."""
    live = betas[betas["class"] != "dead"]
    return live.sort_values(["relative_norm_difference", "latent"], ascending=[False, True]).head(count)


def ranked_by_scaling(betas: pd.DataFrame) -> pd.DataFrame:
    """Latents by rank(nu_reconstruction) + rank(nu_error), the most chat-specific first (docs/method.md 10).

    Latents with a ratio that is undefined or outside of ``NU_RANGE`` have no rank and are left out.
    """
    ranked = plausible(betas)
    rank_sum = ranked.nu_reconstruction.rank() + ranked.nu_error.rank()
    return ranked.assign(rank_sum=rank_sum).sort_values(["rank_sum", "latent"]).drop(columns="rank_sum")


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
