"""Does a ranking of latents find those that matter? The best half of each ranking against random halves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

RANKINGS = {"best_norm": "decoder norm", "best_scaling": "latent scaling"}
VERDICTS = {
    "better": "So this ranking finds latents that matter more than others.",
    "worse": "So this ranking puts latents first that matter less than others.",
    "may raise": "But patching this half is not shown to lower the KL, so it need not hold what matters.",
    "undecided": "The interval holds 0, so this run does not show that the ranking finds what matters.",
}


def halves(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Compare the best half of every ranking with random halves, on all answer tokens (docs/method.md 12).

    ``tables``: crosscoder -> its table of ``kl_table``. A row has the crosscoder, the ranking, the ``change``
    of the KL as a share of that without patching, and ``beyond``: how much lower the KL is than with
    random halves, as such a share, with its 95 % interval ``low`` and ``high``. The verdict is in words.
    A half whose own reduction of the KL may be 0 or less is not called better. There is no row where a half
    is empty or was not measured.
    """
    found = []
    for crosscoder, table in tables.items():
        table = table[(table.group == "all") & table.beyond_random_low.notna()].set_index("variant")
        for variant, ranking in RANKINGS.items():
            if variant not in table.index:
                continue
            beyond, low, high = table.loc[variant, [f"beyond_random{end}" for end in ("", "_low", "_high")]]
            lowers = table.loc[variant, "reduction_low"] > 0
            better = "better" if lowers else "may raise"
            verdict = better if low > 0 else "worse" if high < 0 else "undecided"
            found.append(
                {"crosscoder": crosscoder, "ranking": ranking, "change": -table.loc[variant, "reduction"]}
                | {"beyond": beyond, "low": low, "high": high}
                | {"verdict": VERDICTS[verdict]}
            )
    return found
