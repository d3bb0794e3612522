"""Which concepts are planted: their kinds, directions and strengths, and the tokens on which they may fire.

Everything follows from the settings, the training tokens and the background's centred norm. So it is known
before any activation is changed.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import Planted
from crossdiff.errors import UserError
from crossdiff.planted.kinds import KINDS
from crossdiff.provenance.storage import atomic_path, record_mark, write_csv
from crossdiff.texts.shards import Shard

CONTEXTS = ("random", "token", "position", "topic")  # concepts of each kind get them in turn
KEY = "pair.chat.planted"
# A concept fires on at most this share of its context's tokens, so that it differs from the context itself.
LARGEST_RATE = 0.5
TRIES = 20_000  # random directions that are tried before ``draw`` gives up


class Concepts(NamedTuple):
    """The ground truth. ``table`` has one row per concept, with the columns:

    - concept: number
    - kind: one of ``KINDS``
    - context: one of ``CONTEXTS``
    - where: the context's tokens, as JSON (see ``eligible``)
    - frequency: share of all tokens on which it fires
    - rate: probability that it fires on a token of its context
    - strength: median in the stronger model, in activation units
    - ratio: strength in the base over strength in the chat model; inf for base-only concepts, 1 for
      decoupled, rotated and shared ones
    - angle: between its directions in the two models, in degrees
    """

    table: pd.DataFrame
    directions: Tensor  # (concepts, model, d_model) float32, unit


def draw(settings: Planted, shards: Sequence[Shard], norm: float, d_model: int) -> Concepts:
    """Draw the concepts for the training ``shards``.

    ``norm`` is the root mean square centred norm of the background. Raises UserError, which says what would
    work, if directions can't be held apart, a concept would fire too rarely, or norms would change too much.
    """
    random = np.random.default_rng(settings.seed)
    kinds = [kind for kind in KINDS for _ in range(getattr(settings.concepts, kind))]
    numbers = np.concatenate([np.arange(getattr(settings.concepts, kind)) for kind in KINDS])
    table = pd.DataFrame({"concept": np.arange(len(kinds)), "kind": kinds})
    table["context"] = [CONTEXTS[number % len(CONTEXTS)] for number in numbers]
    low, high = np.log(settings.frequency)
    table["frequency"] = np.exp(random.uniform(low, high, len(kinds)))
    table["strength"] = settings.strength * norm
    table["ratio"] = table.kind.map({"chat_only": 0.0, "base_only": np.inf}).fillna(1.0)
    _spread_evenly(table, "weakened", "ratio", settings.weakened_ratio)
    table["angle"] = 0.0
    _spread_evenly(table, "rotated", "angle", settings.rotation)
    tokens = sum(len(shard.token) for shard in shards)
    _check_firings(table, settings, tokens)
    _check_norms(table, settings, norm)
    directions = _directions(len(table), d_model, settings)
    table["where"] = [_where(row.context, row.frequency, shards, random) for row in table.itertuples()]
    counts = [sum(int(eligible(where, shard).sum()) for shard in shards) for where in table["where"]]
    table["rate"] = (table.frequency * tokens / np.array(counts)).clip(upper=LARGEST_RATE)
    table["frequency"] = table.rate * counts / tokens
    _check_contexts(table, settings, tokens)
    return Concepts(table, _with_base(directions, table.angle.to_numpy(), settings.seed))


def eligible(where: str, shard: Shard) -> np.ndarray:
    """The tokens of a concept's context, (rows,) bool.

    ``where`` is JSON with these keys:

    - none, as in ``{}``: every token
    - ``tokens``: the tokens with these ids
    - ``period``, ``phase``: positions of a sequence that leave the remainder ``phase``
    - ``topics``, ``topic``: documents whose number leaves the remainder ``topic``
    """
    match json.loads(where):
        case {"tokens": tokens}:
            return np.isin(shard.token, tokens)
        case {"period": period, "phase": phase}:
            return shard.position % period == phase
        case {"topics": topics, "topic": topic}:
            return shard.document % topics == topic
        case _:
            return np.ones(len(shard.token), bool)


def _where(context: str, frequency: float, shards: Sequence[Shard], random: np.random.Generator) -> str:
    """Draw a context of this kind that holds enough tokens for ``frequency``."""
    parts = max(1, min(8, int(LARGEST_RATE / frequency)))
    match context:
        case "token":
            ids, counts = np.unique(np.concatenate([shard.token for shard in shards]), return_counts=True)
            order = random.permutation(len(ids))
            needed = frequency / LARGEST_RATE * counts.sum()
            enough = int(np.searchsorted(np.cumsum(counts[order]), needed)) + 1
            return json.dumps({"tokens": sorted(ids[order[:enough]].tolist())})
        case "position":
            return json.dumps({"period": parts, "phase": int(random.integers(parts))})
        case "topic":
            # A topic is a remainder of the document's hash. With few documents, topics may be empty or small.
            documents = np.concatenate([shard.document for shard in shards])
            shares = np.bincount(documents % parts, minlength=parts) / len(documents)
            large = np.flatnonzero(shares >= min(frequency / LARGEST_RATE, shares.max()))
            return json.dumps({"topics": parts, "topic": int(random.choice(large))})
        case _:
            return "{}"


def _spread_evenly(table: pd.DataFrame, kind: str, column: str, between: tuple[float, float]) -> None:
    rows = table.kind == kind
    table.loc[rows, column] = np.linspace(*between, int(rows.sum()))


def _check_firings(table: pd.DataFrame, settings: Planted, tokens: int) -> None:
    lowest = settings.fewest_firings / tokens
    if settings.frequency[0] < lowest:
        firings, needed = settings.frequency[0] * tokens, settings.fewest_firings / settings.frequency[0]
        raise UserError(
            f"{KEY}.frequency: found {settings.frequency[0]}, about {firings:.0f} firings in {tokens:,} "
            f"training tokens, fewer than fewest_firings {settings.fewest_firings}; "
            f"use at least {lowest:.2g}, or train with {needed:,.0f} tokens"
        )


def _check_contexts(table: pd.DataFrame, settings: Planted, tokens: int) -> None:
    """Check that every concept still fires often enough in its context.

    Rates are cut at LARGEST_RATE, so a context of few tokens, or none, may have lowered a frequency.
    """
    rarest = table.loc[table.frequency.idxmin()]
    firings = rarest.frequency * tokens
    if round(firings) < settings.fewest_firings:
        raise UserError(
            f"{KEY}.fewest_firings: found {settings.fewest_firings}, but concept {rarest.concept} fires "
            f"only about {firings:.0f} times, because its context ({rarest.context}) holds too few tokens; "
            f"try another seed, a lower frequency or more documents"
        )


def _check_norms(table: pd.DataFrame, settings: Planted, norm: float) -> None:
    """Check that planting does not raise norms too much.

    The mean square of log-normal strengths is median^2 exp(2 spread^2). Concepts fire independently, so their
    energies add up.
    """
    energy = table.frequency * table.strength**2 * np.exp(2 * settings.strength_spread**2)
    base = (energy * table.ratio.replace(np.inf, 1.0) ** 2).sum()
    chat = energy[table.kind != "base_only"].sum()
    added = max(base, chat) / norm**2
    allowed = (1 + settings.largest_norm_change) ** 2 - 1
    if added > allowed:
        found, works = np.sqrt(1 + added) - 1, settings.strength * np.sqrt(allowed / added)
        raise UserError(
            f"{KEY}.strength: found {settings.strength:.3g}, which raises the root mean square norm by "
            f"{found:.1%}, more than largest_norm_change {settings.largest_norm_change:.1%}; "
            f"up to {np.floor(1000 * works) / 1000:.3f} would work"
        )


def _directions(count: int, d_model: int, settings: Planted) -> Tensor:
    """Draw (count, d_model) random unit vectors. No two have a larger |cosine| than is allowed."""
    generator = torch.Generator().manual_seed(settings.seed)
    kept = torch.empty(0, d_model)
    for _ in range(TRIES):
        candidate = normalize(torch.randn(1, d_model, generator=generator), dim=1)
        if len(kept) == 0 or (kept @ candidate.T).abs().max() <= settings.largest_cosine:
            kept = torch.cat([kept, candidate])
            if len(kept) == count:
                return kept
    raise UserError(
        f"{KEY}.concepts: found {count}, but {d_model} dimensions hold only {len(kept)} directions apart "
        f"(largest_cosine {settings.largest_cosine}); up to {len(kept)} would work"
    )


def _with_base(directions: Tensor, angles: np.ndarray, seed: int) -> Tensor:
    """Directions of both models, (concepts, model, d_model), from those of the chat model.

    The base model's directions are turned by ``angles`` (degrees) towards random normals.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    away = torch.randn(directions.shape, generator=generator)
    normals = normalize(away - (away * directions).sum(dim=1, keepdim=True) * directions, dim=1)
    radians = torch.from_numpy(np.deg2rad(angles)).float()[:, None]
    return torch.stack([radians.cos() * directions + radians.sin() * normals, directions], dim=1)


def write_concepts(table: str, directions: str, concepts: Concepts) -> None:
    """Write the ground truth: the table as CSV and the directions as safetensors."""
    write_csv(table, concepts.table)
    with atomic_path(directions) as temporary:
        save_file({"directions": concepts.directions}, temporary, metadata=record_mark())


def read_concepts(table: str, directions: str) -> Concepts:
    """Read the ground truth that ``write_concepts`` wrote."""
    return Concepts(pd.read_csv(table), load_file(directions)["directions"])
