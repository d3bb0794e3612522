"""Which concepts are planted: their kind, directions, strengths and the tokens on which they may fire.

Everything follows from the settings, the training tokens and the background's centred norm, so it is known before any token is changed.
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

CONTEXTS = ("random", "token", "position", "topic")  # in turn, kind by kind
KEY = "pair.chat.planted"
LARGEST_RATE = (
    0.5  # a concept fires on at most this share of the tokens of its context: it is not the context itself
)
TRIES = 20_000  # random directions that are looked at before no more are thought to fit


class Concepts(NamedTuple):
    """Ground truth. ``table`` has a row per concept: concept, kind, context, where (JSON, see ``eligible``), frequency, rate (probability
    of firing on a token of the context), strength (median in the stronger model, activation units), ratio (base over chat; inf for
    base-only ones, 1 for decoupled, rotated and shared ones), angle (degrees)."""

    table: pd.DataFrame
    directions: Tensor  # (concepts, model, d_model) float32, unit


def draw(settings: Planted, shards: Sequence[Shard], norm: float, d_model: int) -> Concepts:
    """Concepts for a background of root mean square centred norm ``norm``, read on the training ``shards``.

    Raises UserError, with what would work, where directions can't be held apart, firings would be too few, or norms would change too much.
    """
    random = np.random.default_rng(settings.seed)
    kinds = [kind for kind in KINDS for _ in range(getattr(settings.concepts, kind))]
    numbers = np.concatenate([np.arange(getattr(settings.concepts, kind)) for kind in KINDS])
    table = pd.DataFrame({"concept": np.arange(len(kinds)), "kind": kinds})
    table["context"] = [CONTEXTS[number % len(CONTEXTS)] for number in numbers]
    table["frequency"] = np.exp(random.uniform(*np.log(settings.frequency), len(kinds)))
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
    """(rows,) bool: the tokens of a concept's context.

    ``where``: ``{}`` every token; ``tokens`` these ids; ``period``, ``phase`` positions of a sequence; ``topics``, ``topic`` documents.
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
    """A random context of this kind that holds enough tokens for ``frequency``."""
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
            # The remainder of a hash: documents of few shards may be few, so a topic must hold some of them.
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
        raise UserError(
            f"{KEY}.frequency: found {settings.frequency[0]}, about {settings.frequency[0] * tokens:.0f} firings in {tokens:,} training "
            f"tokens, fewer than fewest_firings {settings.fewest_firings}; from {lowest:.2g} on it would work, or with "
            f"{settings.fewest_firings / settings.frequency[0]:,.0f} tokens"
        )


def _check_contexts(table: pd.DataFrame, settings: Planted, tokens: int) -> None:
    """Rates are cut at LARGEST_RATE, so a context of few tokens, or none, lowers a frequency that was high enough."""
    rarest = table.loc[table.frequency.idxmin()]
    firings = rarest.frequency * tokens
    if round(firings) < settings.fewest_firings:
        raise UserError(
            f"{KEY}.fewest_firings: found {settings.fewest_firings}, but concept {rarest.concept} fires about {firings:.0f} times in its "
            f"context ({rarest.context}), which holds too few tokens; another seed, lower frequency or more documents may help"
        )


def _check_norms(table: pd.DataFrame, settings: Planted, norm: float) -> None:
    """The mean square of log-normal strengths is median^2 exp(2 spread^2); concepts fire independently."""
    energy = table.frequency * table.strength**2 * np.exp(2 * settings.strength_spread**2)
    base = (energy * table.ratio.replace(np.inf, 1.0) ** 2).sum()
    chat = energy[table.kind != "base_only"].sum()
    added = max(base, chat) / norm**2
    allowed = (1 + settings.largest_norm_change) ** 2 - 1
    if added > allowed:
        found, works = np.sqrt(1 + added) - 1, settings.strength * np.sqrt(allowed / added)
        raise UserError(
            f"{KEY}.strength: found {settings.strength:.3g}, which raises the root mean square norm by {found:.1%}, more than "
            f"largest_norm_change {settings.largest_norm_change:.1%}; up to {np.floor(1000 * works) / 1000:.3f} it would work"
        )


def _directions(count: int, d_model: int, settings: Planted) -> Tensor:
    """(count, d_model) random unit vectors, no two of a larger |cosine| than allowed."""
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
        f"(largest_cosine {settings.largest_cosine}); {len(kept)} would work"
    )


def _with_base(directions: Tensor, angles: np.ndarray, seed: int) -> Tensor:
    """(concepts, model, d_model): the chat directions, and those turned by ``angles`` (degrees) towards random normals for the base."""
    generator = torch.Generator().manual_seed(seed + 1)
    away = torch.randn(directions.shape, generator=generator)
    normals = normalize(away - (away * directions).sum(dim=1, keepdim=True) * directions, dim=1)
    radians = torch.from_numpy(np.deg2rad(angles)).float()[:, None]
    return torch.stack([radians.cos() * directions + radians.sin() * normals, directions], dim=1)


def write_concepts(table: str, directions: str, concepts: Concepts) -> None:
    """Write the ground truth: a table, and directions as safetensors."""
    write_csv(table, concepts.table)
    with atomic_path(directions) as temporary:
        save_file({"directions": concepts.directions}, temporary, metadata=record_mark())


def read_concepts(table: str, directions: str) -> Concepts:
    """Read what ``write_concepts`` wrote."""
    return Concepts(pd.read_csv(table), load_file(directions)["directions"])
