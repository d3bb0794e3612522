"""The paper's claims about L1 and BatchTopK, judged where the truth is known.

Each claim is a quantity with a bound that was fixed before any result was seen. The verdict depends on the
95 % interval of the quantity's mean over seeds (``share_mean`` for shares, else Student's t). The claim holds
if the interval lies above the bound, and does not hold if it lies below. Otherwise it is undecided, and so it
always is with a single seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from crossdiff.intervals import share_mean, student_mean
from crossdiff.latents.evaluation import plausible
from crossdiff.planted.scoring import evidence

TRAPS = ("weakened", "decoupled")  # kinds that L1 is said to mistake for chat-only


class Claim(NamedTuple):
    """One claim of the paper.

    ``value`` computes the quantity for one seed. It takes the tables of L1 and BatchTopK
    (``scoring.latent_table``) and the number of planted chat-only concepts.
    """

    claim: str
    quantity: str  # what ``value`` computes, in words
    bound: float  # that the quantity exceeds if the claim holds
    figure: str  # name of the figure that shows it
    value: Callable[[pd.DataFrame, pd.DataFrame, int], float]
    interval: Callable[[Sequence[float]], tuple[float, float, float]] = student_mean


def false_members(table: pd.DataFrame, called: np.ndarray) -> pd.DataFrame:
    """Select the called latents that stand for no chat-only concept. Borderline ones are left out.

    ``called`` is (latents,) bool.
    """
    return table[called & ~table.called_kind.isin(["chat_only", "borderline"]).to_numpy()]


def recall_curve(table: pd.DataFrame, planted: int) -> pd.DataFrame:
    """Call latents one after the other, the largest norm difference first. Equal ones are called together.

    ``planted`` is the number of planted chat-only concepts. Columns: called (latents so far), recall (share
    of the chat-only concepts that are found) and false_members (as ``false_members`` defines them).
    """
    difference = evidence(table, "norm_difference")
    order = np.argsort(-difference, kind="stable")
    ranked, last_of_equals = table.iloc[order], np.append(np.diff(difference[order]) != 0, True)
    is_new = (ranked.kind == "chat_only") & ~ranked.concept.duplicated()
    is_false = ~ranked.called_kind.isin(["chat_only", "borderline"])
    curve = pd.DataFrame(
        {"called": np.arange(1, len(table) + 1), "recall": is_new.cumsum().to_numpy() / planted}
    )
    return curve.assign(false_members=is_false.cumsum().to_numpy())[last_of_equals]


def false_at(curve: pd.DataFrame, recall: float) -> float:
    """The number of false members that are called before ``recall`` is reached.

    NaN if the recall is never reached. Also NaN if it is 0, because a set that finds nothing can't be
    compared.
    """
    reached = curve[curve.recall >= recall - 1e-9]
    return float(reached.false_members.iloc[0]) if recall > 0 and len(reached) else math.nan


def _norm(table: pd.DataFrame) -> np.ndarray:
    return (table["class"] == "chat-only").to_numpy()


def _recall(table: pd.DataFrame, planted: int) -> float:
    return table.concept[_norm(table) & (table.kind == "chat_only").to_numpy()].nunique() / planted


def _more_false(l1: pd.DataFrame, batchtopk: pd.DataFrame, planted: int) -> float:
    recall = min(_recall(l1, planted), _recall(batchtopk, planted))
    return false_at(recall_curve(l1, planted), recall) - false_at(recall_curve(batchtopk, planted), recall)


def _traps(l1: pd.DataFrame, batchtopk: pd.DataFrame, planted: int) -> float:
    false = false_members(l1, _norm(l1))
    return float(false.kind.isin(TRAPS).mean()) if len(false) else math.nan


def _flagged(l1: pd.DataFrame, batchtopk: pd.DataFrame, planted: int) -> float:
    false = false_members(l1, _norm(l1))
    trapped = false[false.kind.isin(TRAPS)]
    return float((~trapped.confirmed).mean()) if len(trapped) else math.nan


def _agreement(l1: pd.DataFrame, batchtopk: pd.DataFrame, planted: int) -> float:
    usable = plausible(batchtopk)
    difference = usable.relative_norm_difference
    correlations = [-difference.corr(usable[name]) for name in ("nu_error", "nu_reconstruction")]
    # NumPy's minimum is NaN if either correlation is undefined. The claim is then undecided.
    return float(np.min(correlations))


def _recall_difference(l1: pd.DataFrame, batchtopk: pd.DataFrame, planted: int) -> float:
    return _recall(batchtopk, planted) - _recall(l1, planted)


CLAIMS = (
    Claim(
        "At equal recall L1's chat-only set holds more false members than BatchTopK's",
        "false members of L1 minus those of BatchTopK, at the smaller of both recalls by norm",
        0.0,
        "recall",
        _more_false,
    ),
    Claim(
        "Most of L1's false members are weakened or decoupled",
        "share of weakened and decoupled concepts among them",
        0.5,
        "calls",
        _traps,
        share_mean,
    ),
    Claim(
        "Latent scaling flags L1's weakened and decoupled false members",
        "share of them that latent scaling does not confirm at the paper's thresholds",
        0.5,
        "calls",
        _flagged,
        share_mean,
    ),
    Claim(
        "BatchTopK's norm difference agrees with nu",
        "the smaller of its correlations with -nu_error and -nu_reconstruction over plausible latents",
        0.7,
        "agreement",
        _agreement,
    ),
    Claim(
        "BatchTopK's recall of chat-only concepts is no worse than L1's",
        "recall of BatchTopK minus that of L1, by norm; down to -0.05 counts as no worse",
        -0.05,
        "calls",
        _recall_difference,
    ),
)


def verdict(low: float, high: float, bound: float) -> str:
    """Judge the claim that a mean with the interval from ``low`` to ``high`` exceeds ``bound``.

    Gives "holds", "does not hold" or "undecided".
    """
    if low > bound:
        return "holds"
    return "does not hold" if high < bound else "undecided"


def judge(
    l1: Mapping[int, pd.DataFrame], batchtopk: Mapping[int, pd.DataFrame], planted: int
) -> pd.DataFrame:
    """Judge every claim. Gives one row per claim.

    ``l1`` and ``batchtopk`` hold the tables of the first crosscoder with each loss, by seed. ``planted`` is
    the number of planted chat-only concepts. Columns: claim, verdict, quantity, bound, mean, low, high (its
    95 % interval), values (one per seed), figure. If one of the losses is missing, every claim is undecided.
    """
    rows = []
    for claim in CLAIMS:
        seeds = sorted(l1.keys() & batchtopk.keys())
        values = [claim.value(l1[seed], batchtopk[seed], planted) for seed in seeds]
        mean, low, high = claim.interval(values) if values else (math.nan,) * 3
        rows.append(
            {
                "claim": claim.claim,
                "verdict": verdict(low, high, claim.bound),
                "quantity": claim.quantity,
                "bound": claim.bound,
                "mean": mean,
                "low": low,
                "high": high,
                "values": " ".join(f"{value:.3g}" for value in values),
                "figure": claim.figure,
            }
        )
    return pd.DataFrame(rows)
