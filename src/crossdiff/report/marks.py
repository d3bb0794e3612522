"""Marks of a finding: what else the run's tables say of its latents, in a few words, and what that means."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.latents.template_tokens import OUTSIDE, TEMPLATE
from crossdiff.report.steering import Contrast, contrasts_of
from crossdiff.report.template import percent

SEEN = 3  # promoted tokens of a latent, of ten, that the first look must have shown
RARE = 0.05  # at most this share of live latents may have as many


class Mark(NamedTuple):
    """A short mark, and the sentences that explain it."""

    text: str
    meaning: str


class Known(NamedTuple):
    """What the tables of one crosscoder say of its latents. What was not measured is empty or None."""

    seeds: int = 1  # of the run
    again: Mapping[int, int] = {}  # latent -> how many of the other seeds found it again
    template: pd.DataFrame | None = None  # template_tokens.csv
    read: Mapping[str, int] = {}  # tokens_read.json
    steering: pd.DataFrame | None = None  # steering.csv
    kl: pd.DataFrame | None = None  # kl.csv
    seen: Mapping[int, int] = {}  # those that the first look saw too (``seen_too``)


def marks(own: Sequence[Mapping[str, Any]], known: Known, group: int = 0) -> list[Mark]:
    """Return the marks of a group of confirmed latents, which has the number ``group`` in groups.csv.

    ``own``: their rows of the beta table, in order.
    """
    latents = [row["latent"] for row in own]
    found = [*_confirmed(own), *_again(latents, known), *_template(latents, known)]
    found += [*_carried(len(latents), group, known), *_steering(latents, known)]
    return found if own[0]["class"] == "base-only" else [*found, *_seen(latents, known)]


def changed_behaviour(latents: Sequence[int], known: Known) -> str:
    """What the answers do that steering one of ``latents`` changes beyond chance and beyond all controls.

    It is the behaviour in words, as "refuses". Empty if no latent changes it so.
    """
    found = _sure_contrast(latents, known)
    return str(found[1].steered["behaviour"]) if found else ""


def seen_too(directions: pd.DataFrame, shown: set[int]) -> dict[int, int]:
    """Find latents that the first look saw too: latent -> how many tokens they have in common.

    ``directions`` is the table of ``read_directions``. ``shown`` are the ids of all tokens that the first
    look shows as promoted. Of the ten tokens that a latent promotes most, at least SEEN must be among them,
    and no more than RARE of the live latents may have as many. Latents without a chat direction promote none.
    """
    live = directions[(directions.near.str.len() > 0) & directions.promoted.notna()]
    common = pd.Series(
        [len(shown.intersection(promoted)) for promoted in live.promoted], live.latent, dtype=int
    )
    as_many = common.map(lambda count: float((common >= count).mean()))
    return common[(common >= SEEN) & (as_many <= RARE)].to_dict()


def _confirmed(own: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """Mirrored ratios have no intervals, so base-only latents have no such mark."""
    judged = [row for row in own if row["class"] != "base-only"]
    if not judged:
        return []
    sure = sum(bool(row["confirmed_95"]) for row in judged)
    return [
        Mark(
            f"{sure} of {len(judged)} confirmed at 95 %",
            "A latent counts if both ratios of latent scaling pass with their whole 95 % intervals "
            "(bootstrap over documents).",
        )
    ]


def _again(latents: Sequence[int], known: Known) -> list[Mark]:
    if known.seeds == 1:
        return []
    most = max(known.again.get(latent, 0) for latent in latents)
    return [
        Mark(
            f"found again in {most} of {known.seeds - 1} other seeds",
            "A seed counts if it has a latent of nearly the same directions, each the other's nearest."
            + (" The count is that of the latent found most often." if len(latents) > 1 else ""),
        )
    ]


def _template(latents: Sequence[int], known: Known) -> list[Mark]:
    """The share of the group's firings in chats that are on template tokens, if it fires in chats."""
    if known.template is None:
        return []
    counts = known.template[known.template.latent.isin(latents)].sum()
    in_chats = counts.activations - sum(counts[group] for group in OUTSIDE)
    if not in_chats:
        return []
    share = sum(counts[group] for group in TEMPLATE) / in_chats
    in_text = sum(known.read[group] for group in TEMPLATE)
    text = in_text / sum(count for group, count in known.read.items() if group not in OUTSIDE)
    return [
        Mark(
            f"{percent(share)} on template tokens",
            f"Of {in_chats:,.0f} firings in chats, {percent(share)} are on tokens of the chat template. "
            f"These are {percent(text)} of the chats' tokens. First tokens do not count.",
        )
    ]


def _carried(latents: int, group: int, known: Known) -> list[Mark]:
    """The share of the KL by which patching the group lowers or raises it, if its interval leaves out 0."""
    if known.kl is None:
        return []
    rows = known.kl[(known.kl.variant == f"group_{group}") & (known.kl.group == "all")]
    rows = rows[(rows.reduction_low > 0) | (rows.reduction_high < 0)]
    if rows.empty:
        return []
    row = rows.iloc[0]
    which = "latent is" if latents == 1 else f"{latents} latents are"
    lowers, (low, high) = row.reduction > 0, sorted((abs(row.reduction_low), abs(row.reduction_high)))
    share = percent(abs(row.reduction))
    return [
        Mark(
            f"carries {share} of the KL" if lowers else f"patched alone, raises the KL by {share}",
            f"If the group's {which} patched from the chat model into the base at the compared layer, the KL "
            f"to the chat model's predictions of {row.tokens:,} answer tokens "
            f"{'falls' if lowers else 'rises'} by {share} "
            f"(95 % interval {percent(low)} to {percent(high)}).",
        )
    ]


def _steering(latents: Sequence[int], known: Known) -> list[Mark]:
    """The effect of ``_sure_contrast``."""
    effect = _sure_contrast(latents, known)
    if effect is None:
        return []
    latent, found = effect
    row, before = found.steered, found.unsteered
    how = "ablated" if found.change == "ablated" else f"at strength {found.change}"
    return [
        Mark(
            f"steered, an answer {row['behaviour']} for {row['shown']} of {row['asked']} {found.prompts}, "
            f"{before['shown']} before",
            f"Latent {latent} {how} (95 % interval {percent(row['low'])} to {percent(row['high'])}; "
            f"{percent(before['low'])} to {percent(before['high'])} before). With "
            f"{len(found.controls)} other directions of the same norm "
            f"{_range(found.controls)} of the answers do so.",
        )
    ]


def _sure_contrast(latents: Sequence[int], known: Known) -> tuple[int, Contrast] | None:
    """The first steered latent with an effect that is beyond chance, beyond all controls, and not odd."""
    if known.steering is None:
        return None
    steered = set(known.steering.latent.dropna().astype(int))
    for latent in (latent for latent in latents if latent in steered):
        for found in contrasts_of(known.steering, latent):
            if found.surely and not found.odd and found.controls:
                return latent, found
    return None


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _seen(latents: Sequence[int], known: Known) -> list[Mark]:
    common = max((known.seen[latent] for latent in latents if latent in known.seen), default=0)
    if not common:
        return []
    return [
        Mark(
            "seen by the first look too",
            f"{common} of the ten tokens that a latent of this group promotes most are among those that the "
            f"first look shows as promoted. At most {percent(RARE)} of the live latents have as many.",
        )
    ]
