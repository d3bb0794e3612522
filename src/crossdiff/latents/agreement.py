"""Agreement across seeds: which latents of one training does another find again?"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import SeedAgreement
from crossdiff.latents.evaluation import most_chat_leaning

COLUMNS = (
    "crosscoder",
    "seed_a",
    "seed_b",
    "live_a",
    "live_b",
    "mean_max_cosine",
    "matched",
    "matched_share",
    "chat_only_a",
    "chat_only_b",
    "chat_only_recurring",
    "top",
    "top_matched",
    "top_recurring",
    "top_recurring_by_chance",
)
ROWS_AT_ONCE = 1024  # of one crosscoder against all of the other


class Nearest(NamedTuple):
    """For every row the row of the other side with the largest cosine."""

    cosine: Tensor
    index: Tensor


def nearest(a: Tensor, b: Tensor) -> tuple[Nearest, Nearest]:
    """Nearest neighbours of the rows of ``a`` (n, width) in ``b`` (m, width) and the other way round, without an n x m matrix."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    of_a = []
    of_b = Nearest(a.new_full((len(b),), -torch.inf), torch.zeros(len(b), dtype=torch.long, device=b.device))
    for start in range(0, len(a), ROWS_AT_ONCE):
        cosines = a[start : start + ROWS_AT_ONCE] @ b.T
        of_a.append(cosines.max(dim=1))
        best, row = cosines.max(dim=0)
        better = best > of_b.cosine
        of_b = Nearest(torch.where(better, best, of_b.cosine), torch.where(better, row + start, of_b.index))
    return Nearest(*(torch.cat(column) for column in zip(*of_a, strict=True))), of_b


def matches(a: Tensor, b: Tensor, cosine_above: float) -> tuple[np.ndarray, float]:
    """(pairs, 2): rows of ``a`` and ``b`` that are each other's nearest and agree; and the mean over both sides of the largest cosine."""
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64), np.nan
    of_a, of_b = nearest(a, b)
    rows = torch.arange(len(a), device=a.device)
    mutual = (of_b.index[of_a.index] == rows) & (of_a.cosine > cosine_above)
    pairs = torch.stack([rows, of_a.index], dim=1)[mutual]
    return pairs.cpu().numpy(), float(torch.cat([of_a.cosine, of_b.cosine]).mean())


def seed_agreement(
    decoders: tuple[Tensor, Tensor],
    betas: tuple[pd.DataFrame, pd.DataFrame],
    top: int,
    settings: SeedAgreement,
) -> dict[str, Any]:
    """How far two trainings of one crosscoder agree. Decoders (latents, model, d_model) and beta tables in order of latents.

    Live latents are compared by the cosine of their base and chat directions put together. Gives: live latents of each; mean_max_cosine;
    matched, the pairs that are each other's nearest with a cosine above ``cosine_above``, and their share of the smaller side; chat-only
    latents of each and the matched pairs of two; the same for the ``top`` most chat-leaning ones: how many of the first training's have any
    match, how many one among the second's, and how many would if matches were drawn by chance.
    """
    live = [table.latent[table["class"] != "dead"].to_numpy(copy=True) for table in betas]
    directions = [decoder[latents].flatten(1) for decoder, latents in zip(decoders, live, strict=True)]
    pairs, mean_max_cosine = matches(*directions, settings.cosine_above)
    matched = [latents[side] for latents, side in zip(live, pairs.T, strict=True)]
    chat_only = [table.latent[table["class"] == "chat-only"] for table in betas]
    leaning = [most_chat_leaning(table, top).latent for table in betas]
    in_top = [np.isin(*sides) for sides in zip(matched, leaning, strict=True)]
    smaller = min(map(len, live))
    return {
        "live_a": len(live[0]),
        "live_b": len(live[1]),
        "mean_max_cosine": mean_max_cosine,
        "matched": len(pairs),
        "matched_share": len(pairs) / smaller if smaller else np.nan,
        "chat_only_a": len(chat_only[0]),
        "chat_only_b": len(chat_only[1]),
        "chat_only_recurring": int(
            (np.isin(matched[0], chat_only[0]) & np.isin(matched[1], chat_only[1])).sum()
        ),
        "top": min(map(len, leaning)),
        "top_matched": int(in_top[0].sum()),
        "top_recurring": int((in_top[0] & in_top[1]).sum()),
        "top_recurring_by_chance": float(in_top[0].sum() * len(leaning[1]) / len(live[1]))
        if len(live[1])
        else np.nan,
    }
