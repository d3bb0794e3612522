"""Does a ranking of latents find those that matter? The best half of each ranking against random halves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

RANKINGS = {"best_norm": "decoder norm", "best_scaling": "latent scaling"}
VERDICTS = {
    "better": "So this ranking finds latents that matter more than others.",
    "worse": "So this ranking puts latents first that matter less than others.",
    "undecided": "The interval holds 0, so this run does not show that the ranking finds what matters.",
}


def halves(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Compare the best half of every ranking with random halves, on all answer tokens (docs/method.md 12).

    ``tables``: crosscoder -> its table of ``kl_table``. A row has the crosscoder, the ranking, how
    much more of the KL the best half takes away than random halves do (``beyond``, with its 95 % interval
    ``low`` and ``high``), and the verdict in words. There is no row where a half is empty or was not
    measured.
    """
    found = []
    for crosscoder, table in tables.items():
        table = table[(table.group == "all") & table.beyond_random_low.notna()].set_index("variant")
        for variant, ranking in RANKINGS.items():
            if variant not in table.index:
                continue
            beyond, low, high = table.loc[variant, [f"beyond_random{end}" for end in ("", "_low", "_high")]]
            verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
            found.append(
                {"crosscoder": crosscoder, "ranking": ranking, "beyond": beyond, "low": low, "high": high}
                | {"verdict": VERDICTS[verdict]}
            )
    return found
