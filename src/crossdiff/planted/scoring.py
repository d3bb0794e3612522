"""Scores on planted concepts (docs/planted.md).

Which latents does each rule call chat-only, and how well does nu recover the planted ratios?
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from crossdiff.config import LatentScaling, Scoring
from crossdiff.intervals import share_mean, student_mean
from crossdiff.latents.applies import DOES_NOT_APPLY, reason
from crossdiff.latents.evaluation import confirms
from crossdiff.planted.kinds import KINDS, NONE

# Kinds of called latents. Borderline means weakened below the borderline ratio.
CALLED = (*KINDS, "borderline", "none")
# Statistics that rank latents from chat-only to shared (see ``evidence``).
STATISTICS = ("norm_difference", "nu_error", "nu_reconstruction")
RATIOS = ("nu_error", "nu_reconstruction", "norm_ratio")  # estimates of the planted ratio
DECISIVE = "norm + strict scaling"  # the rule whose F1 decides on the default method
DEFAULT_LOSS = "batchtopk"


def latent_table(betas: pd.DataFrame, matches: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Join the beta table and the table of ``match``, for live latents.

    Adds called_kind, which is the kind, except that it is "borderline" for weakened concepts below the
    borderline ratio, and norm_ratio, the norm of the base direction over that of the chat direction.
    """
    table = betas.merge(matches, on="latent", validate="one_to_one")
    table = table[table["class"] != "dead"].reset_index(drop=True)
    borderline = (table.kind == "weakened") & (table.ratio < scoring.borderline_ratio)
    table["called_kind"] = table.kind.mask(borderline, "borderline")
    table["norm_ratio"] = table.norm_base / table.norm_chat
    return table


def calls(table: pd.DataFrame, thresholds: LatentScaling, scoring: Scoring) -> dict[str, np.ndarray]:
    """The latents that each rule calls chat-only: rule -> (latents,) bool.

    Undefined ratios, and those below NU_RANGE, confirm nothing.
    """
    norm = (table["class"] == "chat-only").to_numpy()
    ratios = table.nu_error, table.nu_reconstruction
    limits = thresholds.nu_error_below, thresholds.nu_reconstruction_below
    strict_limits = scoring.strict_nu_error_below, scoring.strict_nu_reconstruction_below
    paper, strict = (confirms(*ratios, *below).to_numpy() for below in (limits, strict_limits))
    return {
        "norm": norm,
        "norm + scaling": norm & paper,
        "norm + strict scaling": norm & strict,
        "scaling": paper,
        "strict scaling": strict,
    }


def score(table: pd.DataFrame, called: np.ndarray, planted: int) -> dict[str, float]:
    """Score the ``called`` latents, (latents,) bool, of a ``latent_table``.

    ``planted`` is the number of planted chat-only concepts. Gives:

    - called, called_{kind}: number of called latents, in all and by kind
    - precision: share of called latents that stand for a chat-only concept; NaN if nothing is called
    - recall: share of the planted chat-only concepts that a called latent stands for
    - f1: their harmonic mean; 0 if no called latent stands for a chat-only concept
    - strict_precision, strict_f1: the same, but borderline latents count as false

    Outside of the strict scores, borderline latents do not count.
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
    """How chat-only each latent looks by a statistic, (latents,): larger is more chat-only.

    Ratios count by their distance from 0. An undefined ratio is the least evidence.
    """
    if statistic == "norm_difference":
        return table.relative_norm_difference.to_numpy()
    return -table[statistic].abs().fillna(np.inf).to_numpy()


def area_under_roc(evidence: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive has more evidence than a negative. Ties count half.

    ``evidence`` and ``positive`` are (latents,). NaN if there are no positives or no negatives.
    """
    from sklearn.metrics import roc_auc_score  # takes 0.8 s to import; figures import this module without it

    if positive.all() or not positive.any() or np.isnan(evidence).all():
        return math.nan
    # scikit-learn refuses the -inf of undefined ratios. Ranks give the same area.
    ranks = pd.Series(evidence).rank()
    return float(roc_auc_score(positive, ranks))


def roc_latents(table: pd.DataFrame) -> pd.DataFrame:
    """Select the latents on which a ROC is drawn: those that stand for a concept and are not borderline.

    Latents that stand for none would make the ROC look better than it is.
    """
    return table[(table.concept != NONE) & (table.called_kind != "borderline")]


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """The best latent of each weakened concept that was found, by correlation.

    Columns: concept, ratio (planted), and RATIOS.
    """
    weakened = table[table.kind == "weakened"].sort_values(["correlation", "latent"], ascending=[False, True])
    best = weakened.drop_duplicates("concept").sort_values("concept")
    return best[["concept", "ratio", *RATIOS]].reset_index(drop=True)


def fit(ratio: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Fit a line to estimates against planted ratios. ``ratio`` and ``estimate`` are (concepts,).

    Gives slope, r2, rmse (of the estimates from the planted ratios) and undefined (number of estimates that
    are not finite). The first three are NaN for fewer than three finite estimates, or if all are equal.
    """
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
    """Statistics of a ``latent_table``.

    - found_{kind}: number of concepts that some latent stands for
    - splits: number of concepts with several latents
    - merges: number of latents that could stand for several concepts
    - auc_{statistic}: area under the ROC of each of STATISTICS
    - {ratio}_slope, _r2, _rmse, _undefined: how well each of RATIOS recovers the planted ratios (see ``fit``)
    """
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


def default_of(losses: Mapping[str, str]) -> str | None:
    """Return the crosscoder of the default method: the first of its loss. ``losses`` maps names to losses."""
    return next((name for name, loss in losses.items() if loss == DEFAULT_LOSS), None)


def compared(differences: list[float]) -> dict[str, float | str]:
    """Compare a method with the default one. ``differences`` of F1 are paired, one per seed.

    Gives the mean difference, _low and _high of its 95 % interval (Student's t), and the verdict. The verdict
    is "better" or "worse" if the interval excludes 0, else "no clear difference".
    """
    mean, low, high = student_mean(differences)
    verdict = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
    return {"difference": mean, "difference_low": low, "difference_high": high, "verdict": verdict}


def leaderboard(scores: pd.DataFrame, default: str | None) -> pd.DataFrame:
    """Average scores over seeds: one row per crosscoder and rule, the best F1 first.

    ``scores`` has the columns crosscoder, seed, rule and those of ``score``. ``default`` is the crosscoder
    that the others are compared with. Columns:

    - crosscoder, rule
    - seeds: number of seeds
    - f1, precision, recall, strict_f1: means, each with the ends _low and _high of its 95 % interval
      (``share_mean``)
    - difference, difference_low, difference_high, verdict: of F1 to the default by the same rule, see
      ``compared``. Missing for the default itself and without one.
    - called_{kind}: mean numbers of called latents
    - does_not_apply: why a crosscoder without a base decoder has no scores, if there is one
    """
    nothing = dict.fromkeys(("difference", "difference_low", "difference_high", "verdict"))
    rows, f1 = [], scores.set_index(["crosscoder", "rule", "seed"]).f1.sort_index()
    for (crosscoder, rule), group in scores.groupby(["crosscoder", "rule"], sort=False):
        row = {"crosscoder": crosscoder, "rule": rule, "seeds": len(group)}
        for name in ("f1", "precision", "recall", "strict_f1"):
            mean, low, high = share_mean(group[name].tolist())
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        counts = {f"called_{kind}": group[f"called_{kind}"].astype(float).mean() for kind in CALLED}
        why = reason(group)
        if default in (None, crosscoder) or why:
            row |= nothing
        else:
            row |= compared((f1[crosscoder, rule] - f1[default, rule]).dropna().tolist())
        rows.append(row | counts | ({DOES_NOT_APPLY: why} if why else {}))
    return pd.DataFrame(rows).sort_values("f1", ascending=False, kind="stable").reset_index(drop=True)
