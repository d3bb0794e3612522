"""Agreement across seeds: which latents of one training does another training find again?"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import SeedAgreement
from crossdiff.latents.applies import missing, reason
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
ROWS_AT_ONCE = 1024  # rows of one crosscoder that are compared at once with all rows of the other


class Nearest(NamedTuple):
    """The nearest row of the other side, for every row of one side. Both fields are (rows,)."""

    cosine: Tensor  # the largest cosine with a row of the other side
    row: Tensor  # int64, the row of the other side that has it


def nearest(a: Tensor, b: Tensor) -> tuple[Nearest, Nearest]:
    """Find the nearest row of ``b`` for each row of ``a``, and the other way round.

    ``a`` is (n, width) and ``b`` is (m, width). Gives the neighbours of ``a``, then those of ``b``.
    Memory stays below an n x m matrix: ROWS_AT_ONCE rows of ``a`` are compared at a time.
    """
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    of_a = []
    of_b = Nearest(a.new_full((len(b),), -torch.inf), torch.zeros(len(b), dtype=torch.long, device=b.device))
    for start in range(0, len(a), ROWS_AT_ONCE):
        cosines = a[start : start + ROWS_AT_ONCE] @ b.T
        of_a.append(cosines.max(dim=1))
        best, row = cosines.max(dim=0)
        better = best > of_b.cosine
        of_b = Nearest(torch.where(better, best, of_b.cosine), torch.where(better, row + start, of_b.row))
    return Nearest(*(torch.cat(column) for column in zip(*of_a, strict=True))), of_b


def matches(a: Tensor, b: Tensor, cosine_above: float) -> tuple[np.ndarray, float]:
    """Match the rows of ``a`` (n, width) and ``b`` (m, width).

    Two rows match if each is the other's nearest and their cosine exceeds ``cosine_above``. Gives the pairs
    (pairs, 2) int64, row of ``a`` first, and the mean of all largest cosines, over the rows of both sides.
    The mean is NaN if one side is empty.
    """
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64), np.nan
    of_a, of_b = nearest(a, b)
    rows = torch.arange(len(a), device=a.device)
    mutual = (of_b.row[of_a.row] == rows) & (of_a.cosine > cosine_above)
    pairs = torch.stack([rows, of_a.row], dim=1)[mutual]
    return pairs.cpu().numpy(), float(torch.cat([of_a.cosine, of_b.cosine]).mean())


def seed_agreement(
    decoders: tuple[Tensor, Tensor],
    betas: tuple[pd.DataFrame, pd.DataFrame],
    top: int,
    settings: SeedAgreement,
) -> dict[str, Any]:
    """Measure how far two trainings of one crosscoder agree.

    ``decoders`` are (latents, model, d_model). ``betas`` are their beta tables in order of latents. Only live
    latents are compared, by the cosine of their concatenated base and chat directions (see ``matches``).

    Gives COLUMNS from live_a on:

    - live_a, live_b: live latents of each training.
    - mean_max_cosine: mean over the latents of both of the cosine with the nearest latent of the other.
    - matched, matched_share: number of matched pairs, and their share of the smaller side.
    - chat_only_a, chat_only_b: chat-only latents of each. chat_only_recurring: matched pairs of two chat-only
      latents. None without a base decoder, and then with the reason.
    - top: size of the sets of most chat-leaning latents, at most ``top``. top_matched: how many of the first
      set have a match. top_recurring: how many have their match in the second set. top_recurring_by_chance:
      how many would, if their matches were drawn at random from the live latents.
    """
    live = [table.latent[table["class"] != "dead"].to_numpy(copy=True) for table in betas]
    directions = [decoder[latents].flatten(1) for decoder, latents in zip(decoders, live, strict=True)]
    pairs, mean_max_cosine = matches(directions[0], directions[1], settings.cosine_above)
    matched = [latents[side] for latents, side in zip(live, pairs.T, strict=True)]
    chat_only = [table.latent[table["class"] == "chat-only"] for table in betas]
    leaning = [most_chat_leaning(table, top).latent for table in betas]
    in_top = [np.isin(*sides) for sides in zip(matched, leaning, strict=True)]
    smaller = min(map(len, live))
    by_chance = float(in_top[0].sum() * len(leaning[1]) / len(live[1])) if len(live[1]) else np.nan
    both_chat_only = np.isin(matched[0], chat_only[0]) & np.isin(matched[1], chat_only[1])
    row = {
        "live_a": len(live[0]),
        "live_b": len(live[1]),
        "mean_max_cosine": mean_max_cosine,
        "matched": len(pairs),
        "matched_share": len(pairs) / smaller if smaller else np.nan,
        "chat_only_a": len(chat_only[0]),
        "chat_only_b": len(chat_only[1]),
        "chat_only_recurring": int(both_chat_only.sum()),
        "top": min(map(len, leaning)),
        "top_matched": int(in_top[0].sum()),
        "top_recurring": int((in_top[0] & in_top[1]).sum()),
        "top_recurring_by_chance": by_chance,
    }
    return missing(reason(betas[0]), row, [name for name in row if not name.startswith("chat_only")])
