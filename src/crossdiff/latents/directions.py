"""Which latents point where others do, within a training and across trainings.

The nearness of two latents is the cosine of their concatenated base and chat directions.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.latents.agreement import nearest

NEIGHBOURS = 5  # of each latent
ROWS_AT_ONCE = 256  # latents that are compared together
COLUMNS = ("latent", "promoted", "promoted_by", "suppressed", "suppressed_by", "near", "near_cosine")
RECURRENCE_COLUMNS = ("latent", "crosscoder", "seed", "other", "cosine", "matched")


class Live(NamedTuple):
    """The latents of one training that fire on held-out text."""

    latents: np.ndarray  # (live,) ids, increasing
    directions: Tensor  # (live, 2 * d_model): base direction, then chat direction


def live(decoder: Tensor, betas: pd.DataFrame) -> Live:
    """Select the live latents of ``decoder`` (latents, model, d_model). ``betas`` is in order of latents."""
    latents = np.flatnonzero((betas["class"] != "dead").to_numpy())
    return Live(latents, decoder[latents].flatten(1))


def neighbours(found: Live, count: int = NEIGHBOURS) -> pd.DataFrame:
    """Find the ``count`` nearest live latents of each live latent, within one training.

    Columns: latent, near (list of latents, the nearest first) and near_cosine (list of their cosines).
    """
    directions = normalize(found.directions, dim=1)
    own = torch.arange(len(found.latents), device=found.directions.device)
    near, cosines = [], []
    for start in range(0, len(directions), ROWS_AT_ONCE):
        block = directions[start : start + ROWS_AT_ONCE] @ directions.T
        block[own[: len(block)], own[start : start + len(block)]] = -torch.inf  # not its own neighbour
        best = block.topk(min(count, len(directions) - 1), dim=1)
        near += list(found.latents[best.indices.cpu().numpy()])
        cosines += list(best.values.cpu().numpy())
    return pd.DataFrame({"latent": found.latents, "near": near, "near_cosine": cosines})


def recurrences(
    trainings: Mapping[tuple[str, int], Live], cosine_above: float
) -> dict[tuple[str, int], pd.DataFrame]:
    """Find, for each live latent of each training, the nearest live latent of every other training.

    Trainings are named by (crosscoder, seed). Gives a table per training, with the columns:

    - latent
    - crosscoder, seed: the other training
    - other, cosine: its nearest live latent
    - matched: whether each of the two is the other's nearest and their cosine exceeds ``cosine_above``, as in
      latents/agreement.py
    """
    tables = {name: [pd.DataFrame(columns=RECURRENCE_COLUMNS)] for name in trainings}
    for a, b in combinations(trainings, 2):
        if len(trainings[a].latents) and len(trainings[b].latents):
            for one, other, table in _both_ways(a, b, trainings, cosine_above):
                tables[one].append(table.assign(crosscoder=other[0], seed=other[1])[list(RECURRENCE_COLUMNS)])
    return {
        name: pd.concat(parts[1:], ignore_index=True) if parts[1:] else parts[0]
        for name, parts in tables.items()
    }


def _both_ways(
    a: tuple[str, int], b: tuple[str, int], trainings: Mapping[tuple[str, int], Live], cosine_above: float
) -> Iterator[tuple[tuple[str, int], tuple[str, int], pd.DataFrame]]:
    found = nearest(trainings[a].directions, trainings[b].directions)
    for one, other, here, there in ((a, b, *found), (b, a, *found[::-1])):
        rows = torch.arange(len(here.row), device=here.row.device)
        matched = (there.row[here.row] == rows) & (here.cosine > cosine_above)
        others = trainings[other].latents[here.row.cpu().numpy()]
        table = pd.DataFrame({"latent": trainings[one].latents, "other": others})
        yield one, other, table.assign(cosine=here.cosine.cpu().numpy(), matched=matched.cpu().numpy())
