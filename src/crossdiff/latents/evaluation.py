"""The class of every latent, and the headline numbers of a crosscoder.

This module needs no torch, so that figures which import it start quickly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from crossdiff.config import Classes, LatentScaling
from crossdiff.intervals import ENDS
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, reason, table_of

CLASSES = ("base-only", "shared", "chat-only", "other", "dead")
NU_RANGE = (-0.1, 2.0)  # ratios outside are counted, but not plotted or ranked (docs/method.md 10)
FVE = ("fve_base", "fve_chat", "fve_difference")  # a crosscoder has the first two, or the last
SETTABLE = ("base-only", "shared", "chat-only")  # classes that a loss may put latents into
CONFIRMATIONS = ("confirmed", "confirmed_95")
FLAGS = ("complete_shrinkage", "latent_decoupling")  # what speaks against a claim to be specific
VERDICTS = (*CONFIRMATIONS, *FLAGS)
SAMPLE_SEED = 42  # for the random sample of shared latents (docs/method.md 10)


def classify(difference: np.ndarray, fired: np.ndarray, classes: Classes) -> np.ndarray:
    """Give each latent its class, one of CLASSES: (latents,) strings (docs/method.md 8).

    ``difference`` (latents,) is the relative decoder norm difference. ``fired`` (latents,) counts the
    held-out tokens on which a latent fires; a latent with 0 is "dead", whatever its difference. A live latent
    without a difference (NaN) has no class, None.
    """
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
    found = names.astype(object)
    found[np.isnan(difference) & (fired > 0)] = None
    return found


def beta_table(
    scaling: pd.DataFrame, fired: pd.DataFrame, classes: Classes, thresholds: LatentScaling
) -> pd.DataFrame:
    """Make the beta table: the scaling table with held-out counts, classes and verdicts.

    See docs/method.md 8 and 9. ``scaling`` is the table of ``latent_scaling``. ``fired`` has the columns
    latent and validation_active_tokens. For base-only latents the mirrored ratios are used. The verdicts are:

    - confirmed: both ratios pass ``confirms``.
    - confirmed_95: so do the lower and the upper ends of their 95 % intervals. Never true for base-only
      latents, because mirrored ratios have no interval.
    - complete_shrinkage: nu_error is at least its threshold.
    - latent_decoupling: nu_reconstruction is at least its threshold.

    The last two speak against a latent that claims to be specific to a model: one whose norm difference lies
    above the range of shared latents, or that is base-only. They are missing for all others, whose ratios are
    near 1 as they should be. For undefined ratios all verdicts are false. Ratios below NU_RANGE confirm
    nothing. Where latent scaling does not apply, verdicts are missing.
    """
    table = scaling.merge(fired, on="latent", validate="one_to_one")
    table["class"] = classify(
        table.relative_norm_difference.to_numpy(), table.validation_active_tokens.to_numpy(), classes
    )
    base_only = table["class"] == "base-only"
    error, reconstruction = judged(table)
    below = thresholds.nu_error_below, thresholds.nu_reconstruction_below
    table["confirmed"] = confirms(error, reconstruction, *below)
    ends = [
        confirms(table[f"nu_error_{end}"], table[f"nu_reconstruction_{end}"], *below)
        for end in ("low", "high")
    ]
    table["confirmed_95"] = table.confirmed & ends[0] & ends[1] & ~base_only
    claims = base_only | (table.relative_norm_difference > classes.shared_between[1])
    for flag, ratio, threshold in zip(FLAGS, (error, reconstruction), below, strict=True):
        table[flag] = (ratio >= threshold).astype("boolean").where(claims)
    if DOES_NOT_APPLY in table:
        table[list(VERDICTS)] = pd.DataFrame(pd.NA, table.index, VERDICTS, dtype="boolean")
    return table


def judged(betas: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the ratios that judge each latent: nu_error and nu_reconstruction, or mirrored if base-only.

    ``betas`` has the columns class, nu_error, nu_reconstruction and their mirrored ones (docs/method.md 9).
    """
    base_only = betas["class"] == "base-only"
    return (
        betas.nu_error.mask(base_only, betas.mirrored_nu_error),
        betas.nu_reconstruction.mask(base_only, betas.mirrored_nu_reconstruction),
    )


def with_judged(betas: pd.DataFrame) -> pd.DataFrame:
    """The same table, with the ratios that judge each latent (``judged``) in the place of the plain ones.

    Mirrored ratios have no intervals, so those of base-only latents are NaN.
    """
    error, reconstruction = judged(betas)
    ends = [f"nu_{of}_{end}" for of in ("error", "reconstruction") for end in ("low", "high")]
    intervals = betas[[end for end in ends if end in betas]].mask(betas["class"] == "base-only")
    return betas.assign(nu_error=error, nu_reconstruction=reconstruction, **intervals)


def confirms(
    nu_error: pd.Series, nu_reconstruction: pd.Series, error_below: float, reconstruction_below: float
) -> pd.Series:
    """Test whether both ratios lie below their thresholds but not below NU_RANGE: (latents,) bool.

    A clearly negative ratio means that the base model uses the direction with the opposite sign, so the
    direction is not absent from it.
    """
    lowest = NU_RANGE[0]
    return nu_error.between(lowest, error_below, inclusive="left") & nu_reconstruction.between(
        lowest, reconstruction_below, inclusive="left"
    )


def plausible(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the latents whose two ratios are defined and within NU_RANGE (docs/method.md 10).

    Plots and rankings use only these.
    """
    return table[table.nu_error.between(*NU_RANGE) & table.nu_reconstruction.between(*NU_RANGE)]


def evaluate(betas: pd.DataFrame, quality: dict[str, Any], classes: Classes) -> dict[str, Any]:
    """Compute the headline numbers of one crosscoder, from its beta table and its reconstruction quality.

    The result starts with the entries of ``quality``. Three sets of latents are judged by latent scaling:

    - chat_only: the class chat-only.
    - top: the effective set, the ``classes.top`` most chat-leaning latents. It has the same size for every
      loss.
    - shared: the control, a random sample of as many shared latents as ``top`` has.

    ``{set}_shrinkage_and_decoupling`` counts the latents that show both, which are in both other counts, too.
    Shared latents claim nothing, so neither is counted there. ``{set}_inside_shared`` is the share of a set
    whose nu_reconstruction lies in the central 95 % of the values of all shared latents. The correlations are
    Pearson's, of a ratio with the norm difference, over live latents with plausible ratios. A number without
    data is None, and so is one that does not apply. Then ``does_not_apply`` says why. Where the loss sets
    norm differences, ``{class}_set`` counts the latents of a class that it put there.
    """
    live = betas[betas["class"] != "dead"]
    usable = plausible(live)
    top = most_chat_leaning(betas, classes.top)
    shared = live[live["class"] == "shared"]
    control = shared_control(betas, classes.top)
    defined = live[["nu_error", "nu_reconstruction"]].notna().all(axis=1)
    base_only = live[live["class"] == "base-only"]
    difference = usable.relative_norm_difference
    counts: dict[str, int | None] = {name: int((betas["class"] == name).sum()) for name in CLASSES}
    if why := reason(betas):
        counts = {name: counts[name] if name == "dead" else None for name in CLASSES}
    kept = {"latents": len(betas), "classes": counts, "top": len(top)}
    compared = {
        "base_only_confirmed": int(base_only.confirmed.sum()),
        "others_confirmed": int(live.confirmed.sum() - base_only.confirmed.sum()),
        "undefined_ratios": int((~defined).sum()),
        "implausible_ratios": int(defined.sum()) - len(usable),
        "largest_norm_difference": _or_none(live.relative_norm_difference.max()),
        "correlation_nu_error": _or_none(difference.corr(usable.nu_error)),
        "correlation_nu_reconstruction": _or_none(difference.corr(usable.nu_reconstruction)),
        "top_smallest_norm_difference": _or_none(top.relative_norm_difference.min()),
        **_flags("chat_only", live[live["class"] == "chat-only"]),
        **_flags("top", top),
        **_verdicts("chat_only", live[live["class"] == "chat-only"], shared),
        **_verdicts("top", top, shared),
        **_verdicts("shared", control, shared),
    }
    if "norms_set" in live:
        of_loss = live[live.norms_set]["class"]
        kept |= {f"{name.replace('-', '_')}_set": int((of_loss == name).sum()) for name in SETTABLE}
    return quality | kept | missing(why, compared)


def _flags(name: str, latents: pd.DataFrame) -> dict[str, Any]:
    """Count what speaks against latents that claim to be specific."""
    both = latents.complete_shrinkage & latents.latent_decoupling
    counts = {flag: latents[flag] for flag in FLAGS} | {"shrinkage_and_decoupling": both}
    return {f"{name}_{flag}": int(found.sum()) for flag, found in counts.items()}


def _verdicts(name: str, latents: pd.DataFrame, shared: pd.DataFrame) -> dict[str, Any]:
    """Count the latents of a set that latent scaling confirms, and summarise their ratios."""
    low, high = shared.nu_reconstruction.quantile(list(ENDS))
    ratios = latents.nu_reconstruction.dropna()
    return {f"{name}_{flag}": int(latents[flag].sum()) for flag in CONFIRMATIONS} | {
        f"{name}_median_nu_error": _or_none(latents.nu_error.median()),
        f"{name}_median_nu_reconstruction": _or_none(latents.nu_reconstruction.median()),
        f"{name}_inside_shared": _or_none(ratios.between(low, high).mean()) if len(shared) else None,
        f"{name}_median_control_beta_error": _or_none(latents.control_beta_error_chat.abs().median()),
    }


def explained(evaluation: Mapping[str, Any]) -> list[float]:
    """Return the FVE of everything that a crosscoder reconstructs: of both models, or of the difference."""
    return [evaluation[name] for name in FVE if not pd.isna(evaluation.get(name))]


def comparison(evaluations: list[dict[str, Any]], names: list[tuple[str, int]]) -> pd.DataFrame:
    """Put headline numbers of ``evaluate`` into a table: a row per (crosscoder, seed), a column per class."""
    rows = []
    for evaluation, (crosscoder, seed) in zip(evaluations, names, strict=True):
        counts = {name.replace("-", "_"): count for name, count in evaluation["classes"].items()}
        rows.append(
            {"crosscoder": crosscoder, "seed": seed}
            | {k: v for k, v in evaluation.items() if k not in ("classes", "limits")}
            | counts
            | ({"note": "; ".join(notes)} if (notes := notes_of(evaluation)) else {})
        )
    return table_of(rows)


def notes_of(evaluation: Mapping[str, Any]) -> list[str]:
    """Return what the loss itself does to numbers of a crosscoder, as clauses."""
    limits = evaluation.get("limits", {})
    return [limits[name] for name in ("norms", "errors") if name in limits]


def most_chat_leaning(betas: pd.DataFrame, count: int) -> pd.DataFrame:
    """Select the ``count`` live latents with the largest relative decoder norm difference.

    Equal ones come in order of latents. The size of this set does not depend on the loss. Without a base
    decoder, latents have no norm difference, and are the chat model's own as far as they explain the
    difference. Then the largest means of activation times norm come first (docs/method.md 22).
    """
    live = betas[betas["class"] != "dead"]
    by = "relative_norm_difference"
    if reason(live):
        live, by = live.assign(strength=live.frequency * live.mean_activation * live.norm_chat), "strength"
    found = live.sort_values([by, "latent"], ascending=[False, True]).head(count)
    return found[betas.columns]


def shared_control(betas: pd.DataFrame, count: int) -> pd.DataFrame:
    """Draw as many random shared latents as ``most_chat_leaning`` selects, or all if there are fewer."""
    shared = betas[betas["class"] == "shared"]
    size = min(len(most_chat_leaning(betas, count)), len(shared))
    return shared.sample(size, random_state=SAMPLE_SEED)


def confirmed_latents(betas: pd.DataFrame) -> pd.DataFrame:
    """Select all confirmed live latents, whatever their norm difference, the most chat-leaning first.

    There are none where latent scaling does not apply.
    """
    found = betas[betas.confirmed.fillna(False).astype(bool) & (betas["class"] != "dead")]
    return found.sort_values(["relative_norm_difference", "latent"], ascending=[False, True])


def ranked_by_scaling(betas: pd.DataFrame) -> pd.DataFrame:
    """Sort latents by rank(nu_reconstruction) + rank(nu_error), most chat-specific first (docs/method.md 10).

    Latents with a ratio that is undefined or outside NU_RANGE have no rank and are left out.
    """
    ranked = plausible(betas)
    rank_sum = ranked.nu_reconstruction.rank() + ranked.nu_error.rank()
    return ranked.assign(rank_sum=rank_sum).sort_values(["rank_sum", "latent"]).drop(columns="rank_sum")


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
