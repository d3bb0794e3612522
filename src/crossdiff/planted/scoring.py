"""Scores on planted concepts: who calls which latents chat-only, and how well nu recovers the planted ratios (docs/planted.md)."""

import math

import numpy as np
import pandas as pd

from crossdiff.config import LatentScaling, Scoring
from crossdiff.intervals import student_mean
from crossdiff.latents.evaluation import confirms
from crossdiff.planted.kinds import KINDS, NONE

CALLED = (
    *KINDS,
    "borderline",
    "none",
)  # kinds of called latents; borderline: weakened below the borderline ratio
# What ranks latents from chat-only to shared: larger is more chat-only.
STATISTICS = ("norm_difference", "nu_error", "nu_reconstruction")
RATIOS = ("nu_error", "nu_reconstruction", "norm_ratio")  # what estimates the planted ratio


def latent_table(betas: pd.DataFrame, matches: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Live latents with the concept each stands for. ``called_kind`` sets weakened concepts below the borderline ratio apart."""
    table = betas.merge(matches, on="latent", validate="one_to_one")
    table = table[table["class"] != "dead"].reset_index(drop=True)
    borderline = (table.kind == "weakened") & (table.ratio < scoring.borderline_ratio)
    table["called_kind"] = table.kind.mask(borderline, "borderline")
    table["norm_ratio"] = table.norm_base / table.norm_chat
    return table


def calls(table: pd.DataFrame, thresholds: LatentScaling, scoring: Scoring) -> dict[str, np.ndarray]:
    """Rule -> (latents,) bool: the latents that it calls chat-only. Undefined ratios, and those below NU_RANGE, confirm nothing."""
    norm = (table["class"] == "chat-only").to_numpy()

    ratios = table.nu_error, table.nu_reconstruction
    paper = confirms(*ratios, thresholds.nu_error_below, thresholds.nu_reconstruction_below).to_numpy()
    strict = confirms(
        *ratios, scoring.strict_nu_error_below, scoring.strict_nu_reconstruction_below
    ).to_numpy()
    return {
        "norm": norm,
        "norm + scaling": norm & paper,
        "norm + strict scaling": norm & strict,
        "scaling": paper,
        "strict scaling": strict,
    }


def score(table: pd.DataFrame, called: np.ndarray, planted: int) -> dict[str, float]:
    """Precision over called latents, recall over the ``planted`` chat-only concepts, F1, and the number of called latents by kind.

    Borderline latents count neither as true nor as false, in the strict score as false. Precision is NaN where nothing is called; F1 is 0
    where nothing true is.
    """
    kinds = table.called_kind[called].value_counts()
    true, borderline = int(kinds.get("chat_only", 0)), int(kinds.get("borderline", 0))
    found = table.concept[called & (table.kind == "chat_only").to_numpy()].nunique()
    recall = found / planted

    def scores(counted: int) -> tuple[float, float]:
        precision = true / counted if counted else math.nan
        return precision, 2 * precision * recall / (precision + recall) if true else 0.0

    total = int(called.sum())
    precision, f1 = scores(total - borderline)
    strict_precision, strict_f1 = scores(total)
    return {
        "called": total,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "strict_precision": strict_precision,
        "strict_f1": strict_f1,
    } | {f"called_{kind}": int(kinds.get(kind, 0)) for kind in CALLED}


def evidence(table: pd.DataFrame, statistic: str) -> np.ndarray:
    """(latents,): larger is more chat-only. A ratio counts by its distance from 0; an undefined one is the least evidence."""
    if statistic == "norm_difference":
        return table.relative_norm_difference.to_numpy()
    return -table[statistic].abs().fillna(np.inf).to_numpy()


def area_under_roc(evidence: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive has more evidence than a negative, ties counted half; NaN without either."""
    from sklearn.metrics import roc_auc_score  # 0.8 s, which the figures that import this module do not pay

    if positive.all() or not positive.any():
        return math.nan
    ranks = pd.Series(
        evidence
    ).rank()  # scikit-learn refuses the -inf of undefined ratios; ranks tell the same
    return float(roc_auc_score(positive, ranks))


def roc_latents(table: pd.DataFrame) -> pd.DataFrame:
    """Latents on which a ROC is drawn: those that stand for a concept, borderline ones left out. Others would make it look better."""
    return table[(table.concept != NONE) & (table.called_kind != "borderline")]


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """The best latent of every weakened concept that was found: concept, ratio, and RATIOS."""
    weakened = table[table.kind == "weakened"].sort_values(["correlation", "latent"], ascending=[False, True])
    return (
        weakened.drop_duplicates("concept")
        .sort_values("concept")[["concept", "ratio", *RATIOS]]
        .reset_index(drop=True)
    )


def fit(ratio: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Line through estimates against planted ratios: slope, r2, and rmse from the truth itself; NaN for fewer than three."""
    defined = np.isfinite(estimate)
    ratio, estimate = ratio[defined], estimate[defined]
    if len(ratio) < 3 or not estimate.std() or not ratio.std():
        return {"slope": math.nan, "r2": math.nan, "rmse": math.nan, "undefined": int((~defined).sum())}
    r = np.corrcoef(ratio, estimate)[0, 1]
    return {
        "slope": float(r * estimate.std() / ratio.std()),
        "r2": float(r**2),
        "rmse": float(np.sqrt(np.mean((estimate - ratio) ** 2))),
        "undefined": int((~defined).sum()),
    }


def statistics(table: pd.DataFrame) -> dict[str, float]:
    """Concepts found by kind, splits (concepts with several latents), merges (latents that could stand for several concepts), areas under
    the ROC, and how well weakened ratios are recovered."""
    matched = table[table.concept != NONE]
    found = matched.drop_duplicates("concept").kind.value_counts()
    compared = roc_latents(table)
    positive = (compared.kind == "chat_only").to_numpy()
    best = recovery(table)
    return (
        {f"found_{kind}": int(found.get(kind, 0)) for kind in KINDS}
        | {
            "splits": int((matched.concept.value_counts() > 1).sum()),
            "merges": int((matched.passes_for > 1).sum()),
        }
        | {f"auc_{name}": area_under_roc(evidence(compared, name), positive) for name in STATISTICS}
        | {
            f"{name}_{part}": value
            for name in RATIOS
            for part, value in fit(best.ratio.to_numpy(), best[name].to_numpy(dtype=float)).items()
        }
    )


def leaderboard(scores: pd.DataFrame) -> pd.DataFrame:
    """Over seeds: a row per crosscoder and rule, the best F1 first: mean and interval of precision, recall and F1, mean counts by kind.

    ``scores`` has columns crosscoder, seed, rule and those of ``score``.
    """
    rows = []
    for (crosscoder, rule), group in scores.groupby(["crosscoder", "rule"], sort=False):
        row = {"crosscoder": crosscoder, "rule": rule, "seeds": len(group)}
        for name in ("f1", "precision", "recall", "strict_f1"):
            row |= dict(
                zip((name, f"{name}_low", f"{name}_high"), student_mean(group[name].tolist()), strict=True)
            )
        rows.append(row | {f"called_{kind}": group[f"called_{kind}"].mean() for kind in CALLED})
    return pd.DataFrame(rows).sort_values("f1", ascending=False, kind="stable").reset_index(drop=True)
