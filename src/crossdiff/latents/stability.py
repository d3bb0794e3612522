"""Stability over seeds: which latents recur, which stand for one feature together, and which are mirrored."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import SeedAgreement
from crossdiff.intervals import share_mean
from crossdiff.latents.agreement import ROWS_AT_ONCE, nearest
from crossdiff.latents.applies import missing
from crossdiff.latents.evaluation import confirmed_latents, most_chat_leaning

CONFIRMED, LEANING = "confirmed", "most chat-leaning"  # the sets of latents
SAME_DIRECTION = 0.9  # cosine within one crosscoder, as that of twins (docs/method.md 11)
SHARES = ("recurring", "split", "doubled", "mirrored")
COLUMNS = (
    *("crosscoder", "set", "seeds", "latents"),
    *(f"{share}{end}" for share in SHARES for end in ("", "_low", "_high")),
)


class Live(NamedTuple):
    """The live latents of one training."""

    directions: Tensor  # (live, model x d_model), unit: base and chat direction put together
    sets: dict[str, np.ndarray]  # set -> its places among the live latents


def live(decoder: Tensor, betas: pd.DataFrame, top: int) -> Live:
    """Collect the live latents and their sets.

    ``decoder`` is (latents, model, d_model), and ``betas`` the beta table in order of latents. The set
    CONFIRMED holds the confirmed latents but base-only ones, whatever their norm difference, and LEANING
    the ``top`` most chat-leaning ones. Without a base decoder nothing is confirmed.
    """
    of = betas[betas["class"] != "dead"]
    latents = of.latent.to_numpy(copy=True)
    sets = {
        CONFIRMED: confirmed_latents(of[of["class"] != "base-only"]).latent,
        LEANING: most_chat_leaning(betas, top).latent,
    }
    places = {name: np.flatnonzero(np.isin(latents, chosen)) for name, chosen in sets.items()}
    return Live(normalize(decoder[latents].flatten(1), dim=1), places)


def within(training: Live) -> dict[str, dict[str, float]]:
    """Look for other latents of the same training with the direction of a latent, or its opposite.

    Gives for each set: latents, its size; doubled and mirrored, the shares of latents with a live one whose
    cosine is above SAME_DIRECTION, or below its negative. The shares of an empty set are NaN.
    """
    found = {}
    for name, places in training.sets.items():
        doubled, mirrored = [], []
        for start in range(0, len(places), ROWS_AT_ONCE):
            rows = torch.from_numpy(places[start : start + ROWS_AT_ONCE]).to(training.directions.device)
            cosines = training.directions[rows] @ training.directions.T
            cosines[torch.arange(len(rows), device=rows.device), rows] = 0  # a latent itself
            doubled += (cosines.amax(dim=1) > SAME_DIRECTION).tolist()
            mirrored += (cosines.amin(dim=1) < -SAME_DIRECTION).tolist()
        shares = {"doubled": _share(doubled), "mirrored": _share(mirrored)}
        found[name] = {"latents": float(len(places))} | shares
    return found


def between(a: Live, b: Live, settings: SeedAgreement) -> tuple[dict[str, dict[str, float]], ...]:
    """Look for each latent of a set in the same set of another training. Gives the shares of ``a`` and ``b``.

    A latent is found by the live latent of the other side that is nearest, if the cosine exceeds
    ``settings.cosine_above``. Gives for each set:

    - recurring: share of latents that are each other's nearest with one of the other side's set
    - split: share of latents that share the one that they are found by with another latent of their set
    """
    if not len(a.directions) or not len(b.directions):
        nothing = {name: dict.fromkeys(("recurring", "split"), np.nan) for name in a.sets}
        return nothing, nothing
    sides = nearest(a.directions, b.directions)
    rows = [found.row.cpu().numpy() for found in sides]
    is_near = [(found.cosine > settings.cosine_above).cpu().numpy() for found in sides]
    result = []
    for own, other, training, partner in ((0, 1, a, b), (1, 0, b, a)):
        shares = {}
        for name, places in training.sets.items():
            found, near = rows[own][places], is_near[own][places]
            mutual = near & (rows[other][found] == places)
            at, counts = np.unique(found[near], return_counts=True)
            several = near & np.isin(found, at[counts > 1])
            recurring = mutual & np.isin(found, partner.sets[name])
            shares[name] = {"recurring": _share(recurring), "split": _share(several)}
        result.append(shares)
    return tuple(result)


def _share(flags: Sequence[bool] | np.ndarray) -> float:
    return float(np.mean(flags)) if len(flags) else np.nan


def stability(
    trainings: Sequence[Live], does_not_apply: str, settings: SeedAgreement
) -> list[dict[str, Any]]:
    """Measure the stability of one crosscoder's trainings from several seeds. Gives one row per set.

    ``does_not_apply`` says why there can be no confirmed latents, or is empty. Columns of a row:

    - set, seeds
    - latents: mean number of latents of the set
    - SHARES: as ``within`` and ``between`` define them. First the mean over the other seeds, then the mean
      over seeds with _low and _high of its 95 % interval (``share_mean``). Seeds without such latents do not
      count.
    - does_not_apply: as given, for the set CONFIRMED
    """
    rows = [
        {"seed": seed, "set": name} | numbers
        for seed, training in enumerate(trainings)
        for name, numbers in within(training).items()
    ]
    for (a, one), (b, other) in combinations(enumerate(trainings), 2):
        rows += [
            {"seed": seed, "set": name} | numbers
            for seed, side in zip((a, b), between(one, other, settings), strict=True)
            for name, numbers in side.items()
        ]
    of_seeds = pd.DataFrame(rows).groupby(["set", "seed"]).mean()
    table = []
    for name in (CONFIRMED, LEANING):
        of = of_seeds.loc[name]
        row: dict[str, Any] = {"set": name, "seeds": len(trainings), "latents": of.latents.mean()}
        for share in SHARES:
            values = of[share].dropna().tolist()
            ends = share_mean(values) if values else (np.nan,) * 3
            row |= dict(zip((share, f"{share}_low", f"{share}_high"), ends, strict=True))
        table.append(missing(does_not_apply if name == CONFIRMED else "", row, ("set", "seeds")))
    return table
