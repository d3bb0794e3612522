"""Headline numbers of a table of twins.

This module needs no torch, so that a comparison of tables starts quickly.
"""

import pandas as pd

TWIN, CONTROL = "twin", "control"
DIVERGENT = 1 / 2  # pairs with a larger divergence mostly fire in different places


def twin_counts(twins: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of a table of ``find_twins``.

    Gives twins, the number of twins, and twins_divergent and controls_divergent, the shares of twins and of
    control pairs that mostly fire in different places. A share without pairs is NaN.
    """
    by_kind = {kind: twins.divergence[twins.kind == kind].dropna() for kind in (TWIN, CONTROL)}
    return {"twins": int((twins.kind == TWIN).sum())} | {
        f"{kind}s_divergent": float((values > DIVERGENT).mean()) for kind, values in by_kind.items()
    }
