"""Planting: where each concept fires in a shard, and both models' activations with the concepts added."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from crossdiff.activations.cache import tokens_digest
from crossdiff.config import MODELS, Noise, Planted
from crossdiff.planted.concepts import Concepts, eligible
from crossdiff.texts.shards import Shard

ROWS_AT_ONCE = 8192  # bounds memory
NOISE_STREAM = 2**31  # larger than the number of any concept


def _generator(settings: Planted, shard: Shard, stream: int) -> np.random.Generator:
    """Random numbers for one ``stream``.

    They depend on the seed, the stream and the shard's tokens only, not on the order of jobs.
    """
    return np.random.default_rng([settings.seed, stream, int(tokens_digest(shard.token)[:12], 16)])


def firings(concepts: pd.DataFrame, settings: Planted, shard: Shard) -> pd.DataFrame:
    """Draw where each concept fires in a shard, and how strongly.

    ``concepts`` is the table of ``Concepts``. Strengths are log-normal. In the base model, a decoupled
    concept keeps ``1 - decoupled_share`` of its firings. On average it gains as many on other tokens of its
    context as it loses. Columns:

    - concept
    - row: of the shard
    - base, chat: strength in each model, in activation units, 0 where the concept does not fire
    """
    parts = []
    for concept in concepts.itertuples():
        random = _generator(settings, shard, concept.concept)
        rows = np.flatnonzero(eligible(concept.where, shard))
        fires = random.random(len(rows)) < concept.rate
        strength = concept.strength * np.exp(settings.strength_spread * random.standard_normal(len(rows)))
        in_base = fires.copy()
        if concept.kind == "decoupled":
            elsewhere = concept.rate * settings.decoupled_share / (1 - concept.rate)
            in_base = random.random(len(rows)) < np.where(fires, 1 - settings.decoupled_share, elsewhere)
        chat = np.where(fires, strength, 0) * (concept.kind != "base_only")
        base = np.where(in_base, strength, 0) * min(concept.ratio, 1.0)
        used = (base > 0) | (chat > 0)
        columns = {"concept": concept.concept, "row": rows[used], "base": base[used], "chat": chat[used]}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"concept": np.int32, "row": np.int64, "base": np.float32, "chat": np.float32})


def strengths(firing: pd.DataFrame, concepts: int, start: int, stop: int) -> Tensor:
    """The strengths on rows ``start`` to ``stop``, as a dense (stop - start, concepts, model) float32.

    ``firing`` is the table of ``firings``. ``concepts`` is the number of concepts.
    """
    dense = torch.zeros(stop - start, concepts, len(MODELS))
    part = firing[(firing.row >= start) & (firing.row < stop)]
    row, concept = part.row.to_numpy() - start, part.concept.to_numpy(copy=True)
    for m, model in enumerate(MODELS):
        dense[row, concept, m] = torch.from_numpy(part[model].to_numpy(copy=True))
    return dense


def noise(settings: Noise, planted: Planted, shard: Shard) -> Tensor:
    """A background of Gaussian noise, (rows, d_model) float32, of root mean square norm ``settings.norm``."""
    random = _generator(planted, shard, NOISE_STREAM)
    values = random.standard_normal((len(shard.token), settings.d_model), dtype=np.float32)
    return torch.from_numpy(values) * (settings.norm / settings.d_model**0.5)


def plant(background: Tensor, concepts: Concepts, firing: pd.DataFrame) -> Tensor:
    """Add concepts to a ``background`` (rows, d_model). Gives (model, rows, d_model) bfloat16.

    ``firing`` is the table of ``firings``. Without concepts both models are the same.
    """
    planted = []
    for start in range(0, len(background), ROWS_AT_ONCE):
        block = background[start : start + ROWS_AT_ONCE].float()
        added = strengths(firing, len(concepts.table), start, start + len(block))
        planted.append(block + torch.einsum("rcm,cmd->mrd", added, concepts.directions))
    return torch.cat(planted, dim=1).to(torch.bfloat16)
