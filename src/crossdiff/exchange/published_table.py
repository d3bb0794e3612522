"""The authors' published numbers of single latents (``feature_df.csv``) next to those of a run.

Their table has a row per latent and no name for the column of latents. Its ``dec_norm_diff`` is turned:
0 is chat-only and 1 base-only. Here it is put into the order of the paper and of docs/method.md 8.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path

TURNED = "dec_norm_diff"
# Ours -> theirs. Newer tables call the chat model "ft".
COLUMNS = {
    "relative_norm_difference": (TURNED,),
    "nu_error": ("beta_ratio_error",),
    "nu_reconstruction": ("beta_ratio_reconstruction",),
    "beta_error_base": ("beta_error_base",),
    "beta_error_chat": ("beta_error_chat", "beta_error_ft"),
    "beta_reconstruction_base": ("beta_reconstruction_base",),
    "beta_reconstruction_chat": ("beta_reconstruction_chat", "beta_reconstruction_ft"),
    "decoder_cosine": ("dec_cos_sim",),
    "frequency": ("freq",),
    "max_activation": ("max_act",),
}
# Their class of a latent -> ours. Older tables call the chat model "IT".
CLASSES = {
    **dict.fromkeys(("Chat only", "IT only"), "chat-only"),
    "Base only": "base-only",
    "Shared": "shared",
    "Other": "other",
}
THEIRS = "published_"  # begins the names of their columns in a table of both


class Agreement(NamedTuple):
    """How far a quantity agrees."""

    quantity: str
    latents: int  # that have a number in both tables
    correlation: float  # Spearman's; NaN for fewer than three latents
    median_difference: float  # of the absolute differences


def joined(published: str | Path, betas: pd.DataFrame) -> pd.DataFrame:
    """A row per latent of both tables: our columns, and theirs with ``published_`` before our names.

    ``betas`` is the beta table of the same crosscoder. Raises UserError for a file that is no such table, and
    for one with latents that the crosscoder does not have.
    """
    theirs = _read(Path(published))
    if strange := sorted(set(theirs.latent) - set(betas.latent)):
        raise UserError(
            f"{published}: has latent {strange[0]}, found {len(betas)} latents here; "
            "allowed: the table of this crosscoder"
        )
    columns = [name for name in (*COLUMNS, "class") if f"{THEIRS}{name}" in theirs and name in betas]
    return betas[["latent", *columns]].merge(theirs, on="latent")


def agreements(table: pd.DataFrame) -> list[Agreement]:
    """How far every quantity agrees, of a table that ``joined`` gives."""
    found = []
    for name in COLUMNS:
        if name in table and f"{THEIRS}{name}" in table:
            both = table[[name, f"{THEIRS}{name}"]].dropna()
            ours, theirs = both[name].astype(float), both[f"{THEIRS}{name}"].astype(float)
            correlation = ours.corr(theirs, method="spearman") if len(both) > 2 else float("nan")
            found.append(Agreement(name, len(both), correlation, (ours - theirs).abs().median()))
    return found


def lines(table: pd.DataFrame) -> list[str]:
    """What to print of a table that ``joined`` gives."""
    shown = pd.DataFrame(agreements(table)).rename(columns=lambda name: name.replace("_", " "))
    told = shown.to_string(index=False, float_format="{:.4g}".format).splitlines()
    classed = table.dropna(subset=[f"{THEIRS}class"]) if f"{THEIRS}class" in table else table[:0]
    if len(classed):
        same = (classed["class"] == classed[f"{THEIRS}class"]).mean()
        counts = pd.crosstab(classed[f"{THEIRS}class"], classed["class"])
        counts.index.name, counts.columns.name = "published", "here"
        told += [
            "",
            f"Classes agree for {same:.1%} of {len(classed):,} latents:",
            *counts.to_string().splitlines(),
        ]
    return told


def write_comparison(published: str | Path, betas: pd.DataFrame, file: str | Path) -> list[str]:
    """Write the table of both as CSV, and return what to print of it. Raises UserError as ``joined`` does."""
    if Path(file).resolve() == Path(published).resolve():
        raise UserError(f"{file}: is the published table; name another file to write")
    table = joined(published, betas)
    with atomic_path(file) as temporary:
        table.to_csv(temporary, index=False)
    return lines(table)


def _read(path: Path) -> pd.DataFrame:
    """Their table with our names."""
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as a table ({first_line(error)})") from error
    first = found.columns[0]
    latents = pd.to_numeric(found[first], errors="coerce")
    is_index = latents.notna().all() and (latents % 1 == 0).all() and not latents.duplicated().any()
    if TURNED not in found or not is_index:
        why = f"lacks {TURNED}" if TURNED not in found else f"{first} holds no numbers of latents"
        raise UserError(f"{path}: {why}; allowed: a feature_df.csv, with latents in its first column")
    theirs = pd.DataFrame({"latent": latents.astype(int)})
    for name, columns in COLUMNS.items():
        for column in columns:
            if column in found:
                values = pd.to_numeric(found[column], errors="coerce")
                if len(wrong := found[column][values.isna() & found[column].notna()]):
                    raise UserError(f"{path}: {column}: found {wrong.iloc[0]!r}, allowed: numbers")
                theirs[THEIRS + name] = 1 - values if column == TURNED else values
    if "tag" in found:
        if unknown := sorted(set(found.tag.dropna()) - set(CLASSES)):
            raise UserError(f"{path}: tag: found {unknown[0]}, allowed: {', '.join(CLASSES)}")
        theirs[f"{THEIRS}class"] = found.tag.map(CLASSES)
    return theirs
