"""The groups of confirmed latents that the report describes, and that are patched as sets."""

import pandas as pd

SHOWN = 4  # groups of a crosscoder, at most


def read_groups(path: str) -> pd.DataFrame:
    """Read a table of ``group_table``. Data sets may be called by numbers, and are texts."""
    return pd.read_csv(path, dtype={"dataset": str}, keep_default_na=False)


def of_findings(table: pd.DataFrame) -> list[int]:
    """The strongest latent of each group that may be described. A name and contexts of it are needed."""
    return [members(table, group)[0] for group in strongest(table, SHOWN)]


def members(table: pd.DataFrame, group: int) -> list[int]:
    """The latents of a group of a table of ``group_table``, the one with the most strength first."""
    each = table[table.group == group].drop_duplicates("latent")
    return each.sort_values("strength", ascending=False, kind="stable").latent.tolist()


def strongest(table: pd.DataFrame, count: int) -> list[int]:
    """Numbers of the ``count`` groups of a table of ``group_table`` with the most strength, in that order."""
    each = table.drop_duplicates("latent").groupby("group").strength.sum()
    return [int(group) for group in each.sort_values(ascending=False, kind="stable").index[:count]]
