"""Density: the share of tokens on which a latent fires (docs/method.md 14). Without torch, which figures need not wait for."""

from collections.abc import Mapping

import pandas as pd

from crossdiff.config import Density
from crossdiff.latents.evaluation import most_chat_leaning


def density_table(betas: Mapping[tuple[str, int], pd.DataFrame], density: Density, top: int) -> pd.DataFrame:
    """One row per training, (crosscoder, seed), and set of live latents: all, the ``top`` most chat-leaning, and the class shared.

    Columns: crosscoder, seed, set, latents, median (density), dense (latents that fire on more than ``dense_above`` of the tokens) and rare
    (on fewer than ``rare_below``). The median of an empty set is NaN. A latent that fires on many tokens is seldom a concept: a set that
    holds many of them says little, whatever their norms are.
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
            rows.append(
                {
                    "crosscoder": crosscoder,
                    "seed": seed,
                    "set": name,
                    "latents": len(latents),
                    "median": latents.frequency.median(),
                    "dense": int((latents.frequency > density.dense_above).sum()),
                    "rare": int((latents.frequency < density.rare_below).sum()),
                }
            )
    return pd.DataFrame(rows)
