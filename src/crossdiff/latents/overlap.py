"""Tables over all pairs and layers: the headline numbers, and which latents another pair has too.

See docs/method.md 15.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from crossdiff.config import CHAT, SeedAgreement
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.latents.agreement import nearest
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, reason, table_of
from crossdiff.latents.evaluation import confirmed_latents, most_chat_leaning, shared_control
from crossdiff.latents.twin_counts import DIVERGENT
from crossdiff.latents.twins import Activity, activities, firing_divergence

COLUMNS = (
    "layer",
    "crosscoder",
    "seed",
    "pair",
    "other_pair",
    "confirmed",
    "matched",
    "matched_confirmed",
    "co_active",
    "median_cosine",
    "median_co_activation",
    "control",
    "control_matched",
    "control_co_active",
)
# The columns that are kept of a beta table.
BETAS = (
    *("latent", "class", "relative_norm_difference", "confirmed"),
    *("frequency", "mean_activation", "norm_chat", DOES_NOT_APPLY),
)
# What a row has without a base decoder.
WITHOUT_BASE = (
    "pair",
    "other_pair",
    "matched",
    "co_active",
    "median_cosine",
    "median_co_activation",
    "sought",
)
MAY_LACK = ("co_active", "control_co_active")
TOGETHER = 1 - DIVERGENT  # from this co-activation on two latents mostly fire together


class PairTraining(NamedTuple):
    """One training of a crosscoder on one pair."""

    pair: str
    directions: Tensor  # (latents, d_model): the chat model's decoder
    betas: pd.DataFrame  # its beta table, in order of latents
    active: str  # path of its active entries on validation tokens
    tokenizer: str  # trainings with one tokenizer read the same token shards


class TrainingFiles(NamedTuple):
    """What names one training on one pair, and the paths of its files."""

    pair: str
    layer: int
    base: str
    tokenizer: str
    crosscoder: str
    seed: int
    weights: str
    config: str
    betas: str
    active: str

    def read(self) -> PairTraining:
        """Read all but the active entries. Raises UserError for a damaged crosscoder."""
        directions = load_crosscoder(self.weights, self.config).decoder[:, CHAT].clone()
        betas = pd.read_parquet(self.betas)
        betas = betas[[name for name in BETAS if name in betas]]
        return PairTraining(self.pair, directions, betas, self.active, self.tokenizer)


class Search(NamedTuple):
    """Latents of one training, and the nearest latent of another for each. All fields are (latents,)."""

    latent: np.ndarray
    nearest: np.ndarray  # the live latent of the other training with the largest cosine
    cosine: np.ndarray

    def above(self, cosine: float) -> "Search":
        """Keep the latents whose largest cosine exceeds ``cosine``."""
        return Search(*(column[self.cosine > cosine] for column in self))


class Firing(NamedTuple):
    """Where some latents of one training fire."""

    positions: np.ndarray  # (tokens,) int64, of all tokens that the training kept (``ActiveFile.positions``)
    of: Mapping[int, Activity]  # latent -> activations; tokens are numbers among the kept ones

    def among(self, latent: int, kept: np.ndarray) -> Activity:
        """The activations of a latent at the positions where ``kept`` (tokens,) holds, over their largest."""
        token, value = self.of[latent]
        inside = kept[token]
        largest = value[inside].max(initial=0)
        return Activity(self.positions[token[inside]], value[inside] / largest if largest else value[inside])


def pairs_table(tables: Sequence[pd.DataFrame], names: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Put the tables of all pairs and layers (``evaluation.comparison``) below each other.

    ``names`` are the first columns of each: pair, layer, base, chat and tokenizer.
    """
    parts = []
    for table, name in zip(tables, names, strict=True):
        parts.append(pd.concat([pd.DataFrame(dict(name), index=table.index), table], axis=1))
    return pd.concat(parts, ignore_index=True)


def looked_for(betas: pd.DataFrame, top: int) -> np.ndarray:
    """The latents of one training that others are searched for, (latents,), in increasing order.

    They are the confirmed ones of the chat model: all but base-only latents, whatever their norm difference.
    Where latent scaling does not apply, they are the ``top`` most chat-leaning ones.
    """
    if reason(betas):
        found = most_chat_leaning(betas, top)
    else:
        found = confirmed_latents(betas[betas["class"] != "base-only"])
    return np.sort(found.latent.to_numpy())


def overlap(trainings: Sequence[PairTraining], top: int, settings: SeedAgreement) -> list[dict[str, Any]]:
    """Search the confirmed latents of each training among the live latents of every other training.

    The trainings are of one crosscoder, seed, layer and base, each on another pair. Gives a row for every
    ordered two of them, with COLUMNS from ``pair`` on:

    - confirmed: number of latents that are ``looked_for``.
    - matched: those with a match. That is a live latent of the other training whose chat direction has a
      cosine above ``settings.cosine_above``. Two latents may have one match.
    - matched_confirmed: those whose match is a confirmed latent of the other training.
    - co_active: matches with a co-activation of TOGETHER or more.
    - median_cosine: median over the confirmed latents of the largest cosine, matched or not.
    - median_co_activation: median over the matches (see ``co_activations``).
    - control, control_matched, control_co_active: the same for random shared latents (``shared_control``).

    The columns on co-activation are None for trainings that read different token shards. A median over
    nothing is NaN. Without a base decoder nothing is confirmed or shared. Then ``sought`` is the number of
    latents that are looked for, and the reason stands with it.
    """
    sought = {
        training.pair: (
            looked_for(training.betas, top),
            shared_control(training.betas, top).latent.to_numpy(copy=True),
        )
        for training in trainings
    }
    found = {
        (a.pair, b.pair): [search(a, b, latents) for latents in sought[a.pair]]
        for a, b in permutations(trainings, 2)
    }
    firing = _firing(trainings, found, settings.cosine_above)
    rows = []
    for a, b in permutations(trainings, 2):
        of_confirmed, of_control = found[a.pair, b.pair]
        matches, controls = (part.above(settings.cosine_above) for part in (of_confirmed, of_control))
        of_matches, of_controls = (
            co_activations(firing[a.pair], firing[b.pair], part) if a.tokenizer == b.tokenizer else None
            for part in (matches, controls)
        )
        why = reason(a.betas)
        row = {
            "pair": a.pair,
            "other_pair": b.pair,
            "confirmed": len(of_confirmed.latent),
            "matched": len(matches.latent),
            "matched_confirmed": int(np.isin(matches.nearest, sought[b.pair][0]).sum()),
            "co_active": _together(of_matches),
            "median_cosine": _median(of_confirmed.cosine),
            "median_co_activation": None if of_matches is None else _median(of_matches),
            "control": len(of_control.latent),
            "control_matched": len(controls.latent),
            "control_co_active": _together(of_controls),
        }
        rows.append(missing(why, row | ({"sought": len(of_confirmed.latent)} if why else {}), WITHOUT_BASE))
    return rows


def overlap_table(trainings: Sequence[TrainingFiles], top: int, settings: SeedAgreement) -> pd.DataFrame:
    """Make the table of all rows of ``overlap``, in order of layers.

    Trainings are compared if they have one layer, crosscoder, seed and base. Those of one such group are in
    memory at a time.
    """
    groups: dict[tuple[Any, ...], list[TrainingFiles]] = {}
    for training in trainings:
        key = (training.layer, training.crosscoder, training.seed, training.base)
        groups.setdefault(key, []).append(training)
    rows = []
    for (layer, crosscoder, seed, _), members in groups.items():
        names = {"layer": layer, "crosscoder": crosscoder, "seed": seed}
        if len(members) > 1:
            found = overlap([training.read() for training in members], top, settings)
            rows += [names | row for row in found]
    rows.sort(key=lambda row: row["layer"])
    sought = ["sought"] if any("sought" in row for row in rows) else []
    return table_of(rows, [*COLUMNS, *sought]).astype(dict.fromkeys(MAY_LACK, "Int64"))


def search(a: PairTraining, b: PairTraining, latents: np.ndarray) -> Search:
    """Find the nearest live latent of ``b`` for each of ``latents`` of ``a``, by their chat directions.

    There is nothing to find if one side is empty. Then all fields are empty too, or the cosines are NaN.
    """
    live = b.betas.latent[b.betas["class"] != "dead"].to_numpy(copy=True)
    if not len(latents) or not len(live):
        return Search(latents, np.full(len(latents), -1), np.full(len(latents), np.nan))
    of_a, _ = nearest(a.directions[latents], b.directions[live])
    return Search(latents, live[of_a.row.cpu().numpy()], of_a.cosine.cpu().numpy())


def co_activations(a: Firing, b: Firing, matches: Search) -> np.ndarray:
    """How far two matched latents fire together, (matches,): 1 - their divergence.

    The divergence is that of twins (``firing_divergence``). Only tokens that both trainings kept count. Each
    latent's activations are divided by its largest one there, because two crosscoders have no common scale.
    NaN for two latents that never fire on these tokens.
    """
    kept_a, kept_b = np.isin(a.positions, b.positions), np.isin(b.positions, a.positions)
    return np.array(
        [
            1 - firing_divergence(a.among(latent, kept_a), b.among(other, kept_b)).divergence
            for latent, other in zip(matches.latent.tolist(), matches.nearest.tolist(), strict=True)
        ]
    )


def _firing(
    trainings: Sequence[PairTraining], found: Mapping[tuple[str, str], Sequence[Search]], cosine_above: float
) -> dict[str, Firing]:
    """Read each training's file once: the latents that have a match or are one, on equal token shards."""
    tokenizers = {training.pair: training.tokenizer for training in trainings}
    wanted: dict[str, list[np.ndarray]] = {training.pair: [] for training in trainings}
    for (a, b), searches in found.items():
        if tokenizers[a] == tokenizers[b]:
            for matches in (part.above(cosine_above) for part in searches):
                wanted[a].append(matches.latent)
                wanted[b].append(matches.nearest)
    firing = {}
    for training in trainings:
        latents = np.unique(np.concatenate([np.empty(0, np.int64), *wanted[training.pair]]))
        if not len(latents):
            firing[training.pair] = Firing(np.empty(0, np.int64), {})
            continue
        ones = np.ones(len(training.betas), np.float32)
        positions = ActiveFile(training.active).positions()
        firing[training.pair] = Firing(positions, activities(training.active, ones, latents))
    return firing


def _together(co_activation: np.ndarray | None) -> int | None:
    return None if co_activation is None else int((co_activation >= TOGETHER).sum())


def _median(values: np.ndarray) -> float:
    """The median of the values that are defined."""
    return float(pd.Series(values, dtype=float).median())
