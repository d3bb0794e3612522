"""Score what methods handed in, by the rule (docs/organisms.md), and sum it up. Without torch."""

from collections.abc import Mapping
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from crossdiff.errors import UserError
from crossdiff.intervals import share_mean, wilson
from crossdiff.organisms.rule import (
    LATENT,
    TOKEN,
    Enrichment,
    Places,
    enrichment,
    fewest_random,
    finds,
    p_values,
    token_p_values,
)

AT = (1, 5, 10)  # numbers of items
METHOD = ["method", "crosscoder", "seed"]
COUNTS = ["random_items", "windows"]
ITEM = ["rank", "kind", "item"]
EVIDENCE = ["p", "excess", "by_window", "taught", "promoted"]
JUDGED = [*METHOD, "behaviour", *ITEM, "finds", *EVIDENCE]
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
    per item and behaviour (JUDGED). Of the latter, ``promoted`` are ids, or the item itself if it is a token.
    """
    found, judged = [], []
    for behaviour, tokens in taught.items():
        enriched = {
            name: enrichment(population.ranks, places, behaviour, population.promoted, tokens, vocabulary)
            for name, population in populations.items()
        }
        for name, group in items.groupby(METHOD, sort=False, dropna=False):
            row = dict(zip(METHOD, name, strict=True)) | {"behaviour": behaviour}
            if why := str(group[WHY_NOT].iloc[0]):
                found.append(row | _not_scored(why))
                continue
            table = _judged(group, populations, enriched, tokens, known)
            counts = {count: table[count].min() for count in COUNTS}  # the fewest of all kinds
            least = fewest_random(len(table))
            if counts["random_items"] < least:
                why = (
                    f"{counts['random_items']} random items, allowed: {least} or more for {len(table)} items"
                )
                found.append(row | counts | _not_scored(why))
            else:
                found.append(row | counts | _found(table))
                judged.append(table.assign(**row))
    every = pd.concat(judged) if judged else pd.DataFrame()
    return pd.DataFrame(found), every.reindex(columns=JUDGED)


def _judged(
    group: pd.DataFrame,
    populations: Mapping[tuple[str, str, int], Population],
    enriched: Mapping[tuple[str, str, int], Enrichment],
    tokens: np.ndarray,
    known: np.ndarray,
) -> pd.DataFrame:
    """The items of one method, in order, each judged among random ones of its kind: JUDGED and COUNTS."""
    parts = []
    for kind, items in group.groupby("kind", sort=False):
        table, numbers = items[ITEM], items["item"].to_numpy()
        if kind == TOKEN:
            p, taught = token_p_values(numbers, tokens, known), np.isin(numbers, tokens).astype(int)
            itself = [[number] for number in numbers]
            parts.append(table.assign(p=p, taught=taught, promoted=itself, random_items=len(known)))
            continue
        of_latents = (str(items.crosscoder.iloc[0]), int(items.seed.iloc[0]))
        key = (str(kind), *(of_latents if kind == LATENT else ("", 0)))
        population, enrichments = populations[key], enriched[key]
        place = {int(number): i for i, number in enumerate(population.ids)}
        rows = [place[int(number)] for number in numbers]
        random = ~np.isin(population.ids, numbers) if kind == LATENT else population.ids < 0
        evidence: dict[str, Any] = {
            "p": p_values(enrichments.evidence[rows], enrichments.evidence[random]),
            "excess": enrichments.excess[rows],
            "by_window": enrichments.by_window[rows],
            "taught": enrichments.promoted[rows],
            "promoted": list(population.promoted[rows]),
            "random_items": random.sum(),
            "windows": enrichments.windows,
        }
        parts.append(table.assign(**evidence))
    found = pd.concat(parts).reindex(columns=[*ITEM, *EVIDENCE, *COUNTS]).sort_values("rank")
    return found.assign(finds=finds(found.p.to_numpy()))


def _not_scored(why: str) -> dict[str, Any]:
    return {f"found_at_{k}": None for k in AT} | {"rank": None, "finds": None, WHY_NOT: why}


def _found(judged: pd.DataFrame) -> dict[str, Any]:
    """Found at 1, 5 and 10, rank of the first item that finds, numbers of items and finds, smallest p."""
    rank = judged["rank"][judged["finds"]].min() if judged["finds"].any() else None
    return {f"found_at_{k}": rank is not None and bool(rank <= k) for k in AT} | {
        "rank": rank,
        "finds": int(judged["finds"].sum()),
        "items": len(judged),
        "smallest_p": float(judged.p.min()),
        WHY_NOT: "",
    }


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """Sum up over organisms and seeds: a row per method and crosscoder, the one that finds most first.

    ``found`` has a row per organism, method, crosscoder, seed and behaviour, and the columns is_null and
    in_text (whether the diffing text holds the behaviour). Columns:

    - method, crosscoder
    - organisms: number of organisms with a behaviour that were scored, each seed counted
    - organisms_not_scored: the same of those that were not
    - found_at_{k}: how many were found, each seed counted
    - share_at_{k}: their share, with its interval low_ and high_ (Wilson). Seeds of one organism say nothing
      of others, so each organism counts once, with its share of seeds
    - low_of_seeds_at_{k}, high_of_seeds_at_{k}: the interval over seeds, for these organisms alone
      (``share_mean``); missing for one seed
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
            hits = own[f"found_at_{k}"].astype(bool)
            of_organisms = hits.groupby(own.organism).mean()
            share, low, high = map(float, wilson(of_organisms.sum(), len(of_organisms)))
            row |= {f"found_at_{k}": int(hits.sum())}
            row |= {f"share_at_{k}": share, f"low_at_{k}": low, f"high_at_{k}": high}
            _, low, high = share_mean(hits.groupby(own.seed).mean()) if len(own) else (nan, nan, nan)
            row |= {f"low_of_seeds_at_{k}": low, f"high_of_seeds_at_{k}": high}
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
