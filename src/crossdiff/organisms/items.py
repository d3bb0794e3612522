"""What each method hands in for an organism: its ten strongest items, in order (docs/organisms.md)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from crossdiff.activations.pairs import PairedShard, Summary, kept_blocks
from crossdiff.config import BASE, CHAT, LatentScaling
from crossdiff.latents.applies import reason
from crossdiff.latents.evaluation import NU_RANGE
from crossdiff.organisms.rule import DIRECTION, ITEMS, LATENT, TOKEN
from crossdiff.texts.positions import predicted_answer_positions

COVARIANCE_TOKENS = 4096
MINED_TOKENS = 4096  # an equal share of every data set, as in the first look

# Methods of a crosscoder, and those that need none.
NORM_AND_WEIGHTS = "norm and weights"
NORM, SCALING, RANDOM_LATENTS, DENSEST = "norm", "scaling", "random latents", "densest latents"
FIRST, ANSWERS, WEIGHTS, MINING, RANDOM_DIRECTIONS = (
    "difference at first positions",
    "difference at answer starts",
    "weight differences",
    "diff mining",
    "random directions",
)


NO_LATENT = "no latent fires on held-out text"
NO_PLACE = "no text has such a place"
NO_CHANGE = "no changed matrix was found that writes into the residual stream"


class Handed(NamedTuple):
    """What a method hands in, the strongest first, or why it can hand in nothing."""

    items: np.ndarray  # (items,) ids of latents, rows of directions, or ids of tokens
    kinds: list[str]  # what each of them is: LATENT, DIRECTION or TOKEN
    why_not: str = ""

    @classmethod
    def of_latents(cls, found: np.ndarray, why_not: str = NO_LATENT) -> "Handed":
        """These latents, or the reason if there are none."""
        return cls(found, [LATENT] * len(found), "" if len(found) else why_not)

    @classmethod
    def of_tokens(cls, found: np.ndarray) -> "Handed":
        """The first ITEMS of these tokens, or the reason if there are none."""
        kinds = [TOKEN] * len(found[:ITEMS])
        return cls(found[:ITEMS], kinds, "" if kinds else "the chat model promotes no token")

    @classmethod
    def of_rows(cls, first: int, count: int, why_not: str) -> "Handed":
        """The rows of directions from ``first`` on, or the reason if there are none."""
        return cls(np.arange(first, first + count), [DIRECTION] * count, "" if count else why_not)

    def with_half_of(self, other: "Handed") -> "Handed":
        """The first half of ITEMS of both in turns, this one's first, or why one of them has none."""
        if why_not := self.why_not or other.why_not:
            return Handed(np.zeros(0, int), [], why_not)
        halves = [list(zip(part.items, part.kinds, strict=True))[: ITEMS // 2] for part in (self, other)]
        turns = [item for pair in itertools.zip_longest(*halves) for item in pair if item]
        return Handed(np.array([number for number, _ in turns]), [kind for _, kind in turns])


def live(betas: pd.DataFrame) -> np.ndarray:
    """The latents of a beta table that fire on held-out text."""
    return betas.latent[betas["class"] != "dead"].to_numpy(copy=True)


def by_norm(betas: pd.DataFrame) -> Handed:
    """The live latents with the largest relative decoder norm differences.

    Equal ones, such as those that the loss sets, are ordered by mean contribution: chat decoder norm times
    mean activation times frequency. Where there is no base decoder, that alone orders them.
    """
    table = betas[betas["class"] != "dead"]
    contribution = (table.norm_chat * table.mean_activation * table.frequency).to_numpy()
    difference = np.zeros(len(table)) if reason(betas) else table.relative_norm_difference.to_numpy()
    return Handed.of_latents(_largest(table.latent.to_numpy(), difference, contribution))


def by_scaling(betas: pd.DataFrame, thresholds: LatentScaling) -> Handed:
    """The live latents that are furthest within both thresholds of latent scaling.

    They are ordered by the larger of nu_error and nu_reconstruction, each over its threshold and by distance
    from 0. Undefined ratios and those below NU_RANGE are left out.
    """
    if why := reason(betas):
        return Handed.of_latents(np.zeros(0, int), why)
    table = betas[betas["class"] != "dead"]
    limits = {
        "nu_error": thresholds.nu_error_below,
        "nu_reconstruction": thresholds.nu_reconstruction_below,
    }
    ratios = np.stack([table[name].to_numpy() / limit for name, limit in limits.items()])
    above = (table[list(limits)] >= NU_RANGE[0]).all(axis=1).to_numpy()
    found = _largest(table.latent.to_numpy()[above], -np.abs(ratios[:, above]).max(axis=0))
    return Handed.of_latents(found, "no latent has defined nu ratios")


def densest(betas: pd.DataFrame) -> Handed:
    """The live latents that fire most often, as a control: they are enriched in many things."""
    table = betas[betas["class"] != "dead"]
    return Handed.of_latents(_largest(table.latent.to_numpy(), table.frequency.to_numpy()))


def at_random(betas: pd.DataFrame, seed: int) -> Handed:
    """Live latents drawn at random, as a control."""
    latents = live(betas)
    return Handed.of_latents(np.random.default_rng(seed).permutation(latents)[:ITEMS])


def of_crosscoder(
    betas: pd.DataFrame, thresholds: LatentScaling, seed: int, weights: Handed
) -> dict[str, Handed]:
    """What every method hands in that judges the latents of one crosscoder, by the name of the method."""
    norm = by_norm(betas)
    return {
        NORM: norm,
        SCALING: by_scaling(betas, thresholds),
        NORM_AND_WEIGHTS: norm.with_half_of(weights),
        RANDOM_LATENTS: at_random(betas, seed),
        DENSEST: densest(betas),
    }


def of_directions(found: Mapping[str, Tensor]) -> dict[str, Handed]:
    """What methods hand in whose directions, (items, d_model) each, are stored one after the other."""
    handed, first = {}, 0
    for method, rows in found.items():
        why_not = NO_CHANGE if method == WEIGHTS else NO_PLACE
        handed[method] = Handed.of_rows(first, len(rows), why_not)
        first += len(rows)
    return handed


def _largest(latents: np.ndarray, *strengths: np.ndarray) -> np.ndarray:
    """The ITEMS latents with the largest strength. Of equal ones the next one decides, then the number."""
    return latents[np.lexsort((latents, *(-strength for strength in reversed(strengths))))][:ITEMS]


def table_of_items(handed: Mapping[tuple[str, str, int], Handed]) -> pd.DataFrame:
    """The items of all methods as a table. ``handed`` is by method, crosscoder and seed.

    Columns: method, crosscoder ("" for methods without one), seed, kind (latent, direction, token), rank from
    1, item (see Handed), and not_scored. A method that hands in nothing has one row, with rank 0, item -1,
    no kind and the reason.
    """
    rows: list[dict[str, Any]] = []
    for (method, crosscoder, seed), found in handed.items():
        name = {"method": method, "crosscoder": crosscoder, "seed": seed}
        if found.why_not:
            rows.append(name | {"kind": "", "rank": 0, "item": -1, "not_scored": found.why_not})
        for rank, (item, kind) in enumerate(zip(found.items.tolist(), found.kinds, strict=True), 1):
            rows.append(name | {"kind": kind, "rank": rank, "item": item, "not_scored": ""})
    return pd.DataFrame(rows)


class MeanDifference:
    """The mean of chat minus base activations at each of ITEMS places: arXiv 2510.13900.

    The places are the first positions that count, in all texts, or those that predict the first of answers.
    """

    def __init__(self, width: int) -> None:
        self.sums = torch.zeros(ITEMS, width, dtype=torch.float64)
        self.counts = torch.zeros(ITEMS, dtype=torch.long)

    def add(self, block: Tensor, place: np.ndarray) -> None:
        """Add activations (rows, model, width) at ``place`` (rows,). Other places do not count."""
        used = torch.from_numpy((place >= 0) & (place < ITEMS))
        chosen = torch.from_numpy(place)[used].long()
        difference = (block[used, CHAT].double() - block[used, BASE].double()).cpu()
        self.sums.index_add_(0, chosen, difference)
        self.counts += torch.bincount(chosen, minlength=ITEMS)

    def directions(self) -> Tensor:
        """The means, (places, width) float32, without places that no text has."""
        there = self.counts > 0
        return (self.sums[there] / self.counts[there, None]).float()


def mean_differences(shards: Sequence[PairedShard], summary: Summary) -> tuple[Tensor, Tensor]:
    """The directions of both methods: at first positions, and at answer starts. (items, d_model) each.

    An answer starts with the last token before its words.
    """
    first, answers = MeanDifference(shards[0].d_model), MeanDifference(shards[0].d_model)
    for shard in shards:
        after = predicted_answer_positions(shard.tokens)
        position = shard.tokens.position.astype(np.int64) - summary.skip_first
        for rows, block in kept_blocks(shard, summary):
            first.add(block, position[rows])
            answers.add(block, after[rows])
    return first.directions(), answers.directions()


def in_turns(attention: Tensor, mlp: Tensor) -> Tensor:
    """ITEMS directions of both, (items, d_model): the first of each with both signs, then the second, ...

    ``attention`` and ``mlp`` (directions, d_model) have an arbitrary sign (``written_directions``).
    """
    turns = [row for pair in itertools.zip_longest(attention, mlp) for row in pair if row is not None]
    signed = [sign * row for row in turns[: ITEMS // 2] for sign in (1, -1)]
    return torch.stack(signed) if signed else attention[:0]


def random_directions(shards: Sequence[PairedShard], summary: Summary, count: int, seed: int) -> Tensor:
    """Normal random directions with the covariance of the base's activations: (count, d_model) float32.

    The covariance is over the same share of every shard, about COVARIANCE_TOKENS in all.
    """
    share = COVARIANCE_TOKENS / sum(shard.rows for shard in shards)
    blocks = [
        block[:, BASE].float()
        for shard in shards
        for _, block in kept_blocks(shard, summary, max(1, round(share * shard.rows)))
    ]
    centred = torch.cat(blocks)
    centred -= centred.mean(dim=0)
    weights = torch.randn(count, len(centred), generator=torch.Generator().manual_seed(seed))
    return weights @ centred / len(centred) ** 0.5
