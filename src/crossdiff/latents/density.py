"""Density: the share of tokens on which a latent fires (docs/method.md 14).

This module needs no torch, so that figures which import it start quickly.
"""

from collections.abc import Mapping

import pandas as pd

from crossdiff.config import Density
from crossdiff.latents.applies import missing, reason, table_of
from crossdiff.latents.evaluation import most_chat_leaning


def density_table(betas: Mapping[tuple[str, int], pd.DataFrame], density: Density, top: int) -> pd.DataFrame:
    """Count dense and rare latents. ``betas`` holds the beta table of each training (crosscoder, seed).

    Gives one row per training and set of live latents. The sets are all of them, the ``top`` most
    chat-leaning ones, and the class shared. Columns:

    - crosscoder, seed, set, latents: the training, the set's name and its size.
    - median: median density, a share of tokens; NaN for an empty set.
    - dense: latents that fire on more than ``dense_above`` of the tokens. Such a latent is seldom a concept,
      so a set with many of them says little, whatever their norms are.
    - rare: latents that fire on fewer than ``rare_below`` of the tokens.
    - does_not_apply: why there is no class shared, if there is none. Its numbers are then missing.
    """
    rows = []
    for (crosscoder, seed), table in betas.items():
        live = table[table["class"] != "dead"]
        sets = {
            "all live": live,
            "most chat-leaning": most_chat_leaning(table, top),
            "shared": live[live["class"] == "shared"],
        }
        for name, latents in sets.items():
            counts = {
                "latents": len(latents),
                "median": latents.frequency.median(),
                "dense": int((latents.frequency > density.dense_above).sum()),
                "rare": int((latents.frequency < density.rare_below).sum()),
            }
            why = reason(table) if name == "shared" else ""
            rows.append({"crosscoder": crosscoder, "seed": seed, "set": name} | missing(why, counts))
    return table_of(rows)
