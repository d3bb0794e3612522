"""What does not apply to a crosscoder has no value in tables, and the reason stands next to it.

The beta table carries the reason on, so whoever has the table knows it. Without torch.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

DOES_NOT_APPLY = "does_not_apply"  # column: why what compares both decoders has no value


def reason(betas: pd.DataFrame) -> str:
    """Say why nothing that compares both decoders applies to a crosscoder, or "" if all applies.

    ``betas`` is its beta table, its scaling table, or any part of their rows. In a table of several
    crosscoders, the reason is missing where all applies.
    """
    why = betas[DOES_NOT_APPLY].iloc[0] if DOES_NOT_APPLY in betas and len(betas) else None
    return "" if pd.isna(why) else str(why)


def missing(why: str, row: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """Return ``row`` as it is. If there is a reason ``why``, all but ``kept`` are None, and it is added."""
    if not why:
        return dict(row)
    return {name: value if name in kept else None for name, value in row.items()} | {DOES_NOT_APPLY: why}


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Make a table of rows. Without ``columns`` it has all keys of the rows.

    A column of counts keeps whole numbers where some are missing. The reason is a column if a row has one.
    """
    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    if DOES_NOT_APPLY not in names and any(DOES_NOT_APPLY in row for row in rows):
        names.append(DOES_NOT_APPLY)
    counts = [name for name in names if _is_count([row.get(name) for row in rows])]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(counts, "Int64"))


def _is_count(values: Sequence[Any]) -> bool:
    """Whether some are missing, and the others are whole numbers."""
    known = [value for value in values if value is not None]
    is_whole = all(isinstance(value, int) and not isinstance(value, bool) for value in known)
    return 0 < len(known) < len(values) and is_whole
