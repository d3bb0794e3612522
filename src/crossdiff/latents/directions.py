"""Where the directions of latents point: at tokens, through the chat model's head, and at each other.

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
from transformers import PreTrainedModel

from crossdiff.latents.agreement import nearest
from crossdiff.models.forward import head_logits
from crossdiff.models.parts import device_of_inputs

TOKENS = 10  # promoted tokens of each latent, and as many suppressed ones
NEIGHBOURS = 5  # of each latent
ROWS_AT_ONCE = 256  # latents whose logits are held together
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


@torch.inference_mode()
def promoted_tokens(model: PreTrainedModel, directions: Tensor, count: int = TOKENS) -> pd.DataFrame:
    """The logit lens: send each direction (latents, d_model) alone through the final norm and the LM head.

    All directions get the same length first, so the columns show what a direction says, not how strongly.
    Gives one row per direction, with lists of ``count`` entries, the furthest first:

    - promoted: token ids with the logits furthest above the mean over the vocabulary
    - promoted_by: their distances from that mean, in logits
    - suppressed, suppressed_by: the same below the mean
    """
    # A root mean square of 1. The final norm alone is not enough: its epsilon shrinks short directions.
    directions = normalize(directions.float(), dim=1) * directions.shape[1] ** 0.5
    parts = []
    for start in range(0, len(directions), ROWS_AT_ONCE):
        block = directions[start : start + ROWS_AT_ONCE].to(device_of_inputs(model), model.dtype)
        logits = head_logits(model, block).float()
        logits -= logits.mean(dim=1, keepdim=True)
        ends = [logits.topk(min(count, logits.shape[1]), largest=largest) for largest in (True, False)]
        parts.append([tensor.cpu().numpy() for end in ends for tensor in (end.indices, end.values)])
    names = ("promoted", "promoted_by", "suppressed", "suppressed_by")
    columns = (list(np.concatenate(blocks)) for blocks in zip(*parts, strict=True))
    return pd.DataFrame(dict(zip(names, columns, strict=True)))


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
