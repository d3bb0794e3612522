"""Score what methods handed in, by the rule (docs/organisms.md), and sum it up. Without torch."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from crossdiff.errors import UserError
from crossdiff.intervals import wilson
from crossdiff.organisms.rule import (
    FEWEST_RANDOM,
    Enrichment,
    Places,
    enrichment,
    finds,
    p_values,
    token_p_values,
)

AT = (1, 5, 10)  # numbers of items
METHOD = ["method", "crosscoder", "seed"]
WHY_NOT = "not_scored"  # column: why a method has no result


class Population(NamedTuple):
    """All items of one kind that there are, of which methods hand in some: latents, or directions."""

    ids: np.ndarray  # (items,)
    ranks: np.ndarray  # (positions, items), rule.ranked
    promoted: np.ndarray  # (items, tokens) ids


def score_items(
    items: pd.DataFrame,
    populations: Mapping[tuple[str, str, int], Population],
    places: Places,
    taught: Mapping[str, np.ndarray],
    vocabulary: int,
    known: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge the items of one organism, for every behaviour of ``taught`` (name -> taught tokens).

    ``items`` has the columns method, crosscoder, seed, rank, kind, item and not_scored. ``populations`` are
    by kind, crosscoder and seed ("" and 0 for directions). Random latents are all that the method did not
    hand in, and random directions those with an id below 0. ``known`` are the distinct ids of the texts
    (``token_p_values``). Gives a table with a row per method and behaviour (``_found``), and one with a row
    per item and behaviour (``_judged``).
    """
    found, judged = [], []
    for behaviour, tokens in taught.items():
        enriched = {
            name: enrichment(population.ranks, places, behaviour, population.promoted, tokens, vocabulary)
            for name, population in populations.items()
        }
        for name, group in items.groupby(METHOD, sort=False, dropna=False):
            row = dict(zip(METHOD, name, strict=True)) | {"behaviour": behaviour}
            why, p = str(group[WHY_NOT].iloc[0]), np.zeros(0)
            if not why:
                p, fewest = _against_random(group, populations, enriched, tokens, known)
                row |= fewest
                if fewest["random_items"] < FEWEST_RANDOM:
                    why = f"{fewest['random_items']} random items, allowed: {FEWEST_RANDOM} or more"
            found.append(row | _found(p, why))
            if not why:
                judged += list(_judged(group, row, p))
    return pd.DataFrame(found), pd.DataFrame(judged)


def _against_random(
    group: pd.DataFrame,
    populations: Mapping[tuple[str, str, int], Population],
    enriched: Mapping[tuple[str, str, int], Enrichment],
    tokens: np.ndarray,
    known: np.ndarray,
) -> tuple[np.ndarray, dict[str, int]]:
    """The p of each item of a method among random ones of its kind: (items,).

    And the numbers of random items and of windows, the fewest of all kinds.
    """
    p, fewest = np.zeros(len(group)), dict[str, int]()
    for kind, items in group.reset_index(drop=True).groupby("kind", sort=False):
        numbers = items["item"].to_numpy()
        if kind == "token":
            p[items.index], counts = token_p_values(numbers, tokens, known), {"random_items": len(known)}
        else:
            of_latents = (str(items.crosscoder.iloc[0]), int(items.seed.iloc[0]))
            key = (str(kind), *(of_latents if kind == "latent" else ("", 0)))
            ids, evidence = populations[key].ids, enriched[key].evidence
            random = ~np.isin(ids, numbers) if kind == "latent" else ids < 0
            place = {int(number): i for i, number in enumerate(ids)}
            p[items.index] = p_values(evidence[[place[int(number)] for number in numbers]], evidence[random])
            counts = {"random_items": int(random.sum()), "windows": enriched[key].windows}
        fewest = {name: min(count, fewest.get(name, count)) for name, count in (fewest | counts).items()}
    return p, fewest


def _found(p: np.ndarray, why: str) -> dict[str, Any]:
    """Found at 1, 5 and 10, rank of the first item that finds, numbers of items and finds, smallest p."""
    if why:
        return {f"found_at_{k}": None for k in AT} | {"rank": None, "finds": None, WHY_NOT: why}
    hits = finds(p)
    rank = int(np.flatnonzero(hits)[0]) + 1 if hits.any() else None
    return {f"found_at_{k}": rank is not None and rank <= k for k in AT} | {
        "rank": rank,
        "finds": int(hits.sum()),
        "items": len(p),
        "smallest_p": float(p.min()),
        WHY_NOT: "",
    }


def _judged(group: pd.DataFrame, row: Mapping[str, Any], p: np.ndarray) -> Iterator[dict[str, Any]]:
    hits = finds(p)
    for i, item in enumerate(group.itertuples()):
        yield {name: row[name] for name in (*METHOD, "behaviour")} | {
            "rank": item.rank,
            "kind": item.kind,
            "item": item.item,
            "p": p[i],
            "finds": bool(hits[i]),
        }


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """Sum up over organisms and seeds: a row per method and crosscoder, the one that finds most first.

    ``found`` has a row per organism, method, crosscoder, seed and behaviour, and the columns is_null and
    in_text (whether the diffing text holds the behaviour). Columns:

    - method, crosscoder
    - organisms: number of organisms with a behaviour that were scored, each seed counted
    - organisms_not_scored: the same of those that were not
    - found_at_{k}: how many were found; share_at_{k}: their share, with its interval low_ and high_ (Wilson)
    - organisms_in_text, found_in_text: the organisms whose behaviour the diffing text holds, and how many of
      them were found at 10
    - tests_on_nulls, false_finds: behaviours that nulls were scored against, and those that were found
    - false_finds_in_text: how many of these the diffing text holds
    - not_scored: why a method has no result

    Raises UserError if no method could be scored.
    """
    if (found[WHY_NOT] != "").all():
        raise UserError(f"organisms: found no method whose items the rule can score ({found[WHY_NOT][0]})")
    rows = []
    for (method, crosscoder), group in found.groupby(["method", "crosscoder"], sort=False, dropna=False):
        scored = group[group[WHY_NOT] == ""]
        own, nulls = scored[~scored.is_null], scored[scored.is_null]
        row: dict[str, Any] = {"method": method, "crosscoder": crosscoder, "organisms": len(own)}
        row["organisms_not_scored"] = int((~group.is_null).sum()) - len(own)
        for k in AT:
            hits = int(own[f"found_at_{k}"].astype(bool).sum())
            share, low, high = map(float, wilson(hits, len(own)))
            row |= {f"found_at_{k}": hits, f"share_at_{k}": share, f"low_at_{k}": low, f"high_at_{k}": high}
        row |= {
            "organisms_in_text": int(own.in_text.sum()),
            "found_in_text": int(own.found_at_10[own.in_text].astype(bool).sum()),
            "tests_on_nulls": len(nulls),
            "false_finds": int(nulls.found_at_10.astype(bool).sum()),
            "false_finds_in_text": int(nulls.found_at_10[nulls.in_text].astype(bool).sum()),
            WHY_NOT: "" if len(scored) else group[WHY_NOT].iloc[0],
        }
        rows.append(row)
    order = [f"found_at_{k}" for k in reversed(AT)]
    return pd.DataFrame(rows).sort_values(order, ascending=False, kind="stable").reset_index(drop=True)
