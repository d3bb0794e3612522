"""Comparison of detection scores between sets of latents (docs/method.md 13).

Are chat-specific latents easier to explain than shared ones? Are latents that latent scaling confirms easier
to explain than others?
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from crossdiff.intervals import central_95, draw_means
from crossdiff.latents.applies import missing, reason, table_of
from crossdiff.latents.evaluation import most_chat_leaning, ranked_by_scaling

FEW_LATENTS = 10  # a mean over fewer latents with a score says nothing
DRAWS, SEED = 2000, 0  # for the bootstrap over latents
COLUMNS = (
    "set",
    "latents",
    "scored",
    "detection",
    "low",
    "high",
    "against",
    "difference",
    "difference_low",
    "difference_high",
    "too_few",
)
OWN = COLUMNS[: COLUMNS.index("against")]  # what a row says of its set alone


def sets(betas: pd.DataFrame, top: int) -> dict[str, tuple[pd.DataFrame, str]]:
    """The sets of latents that are compared: name -> (latents, name of the set to compare them with).

    Chat-specific latents are compared with shared ones, and low nu with high nu. Chat-specific latents are
    the class chat-only or, if it is empty, the ``top`` most chat-leaning latents. Low and high nu are the
    halves of the chat-specific ones by latent scaling. Latents without plausible ratios are in neither half.
    """
    name, chat = "chat-only", betas[betas["class"] == "chat-only"]
    if not len(chat):
        name, chat = "most chat-leaning", most_chat_leaning(betas, top)
    ranked = ranked_by_scaling(chat)
    half = len(ranked) // 2
    return {
        name: (chat, "shared"),
        "shared": (betas[betas["class"] == "shared"], name),
        "low nu": (ranked.head(half), "high nu"),
        "high nu": (ranked.tail(half), "low nu"),
    }


def compare(betas: pd.DataFrame, scores: pd.DataFrame, top: int) -> pd.DataFrame:
    """Compare the mean detection score of each set with that of its counterpart. One row per set of ``sets``.

    ``scores`` has the columns latent and detection. The columns are COLUMNS:

    - set, latents, scored: the set's name, its size, and how many of its latents have a score
    - detection, low, high: mean score and its 95 % interval by a bootstrap over latents
    - against: the counterpart
    - difference, difference_low, difference_high: to the counterpart's mean, and its 95 % interval
    - too_few: whether one of the two sets has fewer than FEW_LATENTS latents with a score

    Without a base decoder, only the most chat-leaning latents have numbers, and ``does_not_apply`` says why.
    """
    detection = scores.set_index("latent").detection
    groups = sets(betas, top)
    values = {
        name: detection.reindex(latents.latent).dropna().to_numpy() for name, (latents, _) in groups.items()
    }
    generator = np.random.default_rng(SEED)
    means = {name: draw_means(found, DRAWS, generator) for name, found in values.items()}
    rows = []
    for name, (latents, against) in groups.items():
        mine, other = values[name], values[against]
        difference = _mean(mine) - _mean(other), *central_95(means[name] - means[against])
        too_few = min(len(mine), len(other)) < FEW_LATENTS
        own = name, len(latents), len(mine), _mean(mine), *central_95(means[name])
        row = dict(zip(COLUMNS, (*own, against, *difference, too_few), strict=True))
        # Without a base decoder there are the most chat-leaning latents, and no set to compare them with.
        kept = OWN if name == next(iter(groups)) else ("set",)
        rows.append(missing(reason(betas), row, kept))
    return table_of(rows, COLUMNS)


def by_quantile(betas: pd.DataFrame, quantiles: pd.DataFrame, top: int) -> pd.DataFrame:
    """Mean recall of the chat-specific and the shared set in each activation quantile.

    Columns: set, quantile, recall, and low and high, its 95 % interval by a bootstrap over latents.
    """
    rows, generator = [], np.random.default_rng(SEED)
    for name, (latents, _) in list(sets(betas, top).items())[:2]:
        for quantile, part in quantiles[quantiles.latent.isin(latents.latent)].groupby("quantile"):
            recall = part.recall.to_numpy()
            rows.append((name, quantile, _mean(recall), *central_95(draw_means(recall, DRAWS, generator))))
    return pd.DataFrame(rows, columns=["set", "quantile", "recall", "low", "high"])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def cautions(table: pd.DataFrame) -> list[str]:
    """List the sets of a table that are too small for a conclusion, one line per crosscoder and explainer.

    ``table`` is the one of ``stacked``. The lines are for a caption.
    """
    found = []
    for (explainer, crosscoder), part in table[table.too_few.eq(True)].groupby(["explainer", "crosscoder"]):
        small = part[part.scored < FEW_LATENTS]
        counts = ", ".join(f"{row.set} ({row.scored:.0f} scored)" for row in small.itertuples())
        found.append(f"{crosscoder}, {explainer}: {counts}")
    return found


def stacked(tables: Mapping[tuple[str, str, int], pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of ``compare``. Their keys (explainer, crosscoder, seed) become columns."""
    table = pd.concat(tables, names=["explainer", "crosscoder", "seed"])
    return table.reset_index(level=[0, 1, 2]).reset_index(drop=True)
