"""Headline numbers of a table of twins. Without torch, which a comparison of tables need not wait for."""

import pandas as pd

TWIN, CONTROL = "twin", "control"
DIVERGENT = 1 / 2  # pairs above it mostly fire in different places


def twin_counts(twins: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of a table of twins: how many, and which shares of them and of controls mostly fire in different places (or NaN)."""
    by_kind = {kind: twins.divergence[twins.kind == kind].dropna() for kind in (TWIN, CONTROL)}
    return {"twins": int((twins.kind == TWIN).sum())} | {
        f"{kind}s_divergent": float((values > DIVERGENT).mean()) for kind, values in by_kind.items()
    }
