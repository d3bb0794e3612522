"""Are chat-specific latents easier to explain than shared ones, and those that latent scaling confirms than others (docs/method.md 13)?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from crossdiff.intervals import central_95, draw_means
from crossdiff.latents.evaluation import most_chat_leaning, ranked_by_scaling

FEW_LATENTS = 10  # with a score: below it a mean says nothing
DRAWS, SEED = 2000, 0  # of the bootstrap over latents
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


def sets(betas: pd.DataFrame, top: int) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name -> (latents, name of the set that they are compared with). Pairs: chat-specific and shared, low nu and high nu.

    Chat-specific are those of the class chat-only or, where there are none, the ``top`` most chat-leaning. Low and high nu: their halves
    by latent scaling, those without plausible ratios left out.
    """
    chat_only = betas[betas["class"] == "chat-only"]
    name, chat = (
        ("chat-only", chat_only) if len(chat_only) else ("most chat-leaning", most_chat_leaning(betas, top))
    )
    ranked = ranked_by_scaling(chat)
    half = len(ranked) // 2
    return {
        name: (chat, "shared"),
        "shared": (betas[betas["class"] == "shared"], name),
        "low nu": (ranked.head(half), "high nu"),
        "high nu": (ranked.tail(half), "low nu"),
    }


def compare(betas: pd.DataFrame, scores: pd.DataFrame, top: int) -> pd.DataFrame:
    """One row per set of ``sets``, with COLUMNS: mean detection of those with a score, and its 95 % interval (bootstrap over latents).

    ``difference``: to the mean of the set named in ``against``. ``too_few``: one of the two sets has fewer than FEW_LATENTS with a score.
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
        rows.append(
            (
                name,
                len(latents),
                len(mine),
                _mean(mine),
                *central_95(means[name]),
                against,
                *difference,
                too_few,
            )
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def by_quantile(betas: pd.DataFrame, quantiles: pd.DataFrame, top: int) -> pd.DataFrame:
    """Mean recall of the two main sets per activation quantile: columns set, quantile, recall, low, high (bootstrap over latents)."""
    rows, generator = [], np.random.default_rng(SEED)
    for name, (latents, _) in list(sets(betas, top).items())[:2]:
        for quantile, part in quantiles[quantiles.latent.isin(latents.latent)].groupby("quantile"):
            recall = part.recall.to_numpy()
            rows.append((name, quantile, _mean(recall), *central_95(draw_means(recall, DRAWS, generator))))
    return pd.DataFrame(rows, columns=["set", "quantile", "recall", "low", "high"])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def cautions(table: pd.DataFrame) -> list[str]:
    """What a table of ``compare`` over crosscoders and explainers is too small to conclude, for a caption."""
    found = []
    for (explainer, crosscoder), part in table[table.too_few].groupby(["explainer", "crosscoder"]):
        small = part[part.scored < FEW_LATENTS]
        found.append(
            f"{crosscoder}, {explainer}: {', '.join(f'{row.set} ({row.scored} scored)' for row in small.itertuples())}"
        )
    return found


def stacked(tables: Mapping[tuple[str, str, int], pd.DataFrame]) -> pd.DataFrame:
    """Tables of ``compare`` under one another; keys: explainer, crosscoder, seed."""
    return (
        pd.concat(tables, names=["explainer", "crosscoder", "seed"])
        .reset_index(level=[0, 1, 2])
        .reset_index(drop=True)
    )
