"""The rule by which an item finds a behaviour (docs/organisms.md). It was fixed before anything was scored.

Without torch.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom, rankdata

from crossdiff.texts.organisms import ORDINARY

LATENT, DIRECTION, TOKEN = "latent", "direction", "token"  # kinds of items
LEVEL = 0.01  # one-sided, for all items of a method together
ITEMS = 10  # that a method hands in
BEYOND_BACKGROUND = LEVEL / ITEMS  # largest p against the background
HALF = 0.5  # of the taught places, that a window must have
SHIFT = 8  # tokens by which a window of the background may begin before or after the taught places
COMMON, REST = 0.25, 0.1  # which tokens of spans stand for a behaviour
RANDOM_REFERENCE = 1999  # random directions next to which directions are ranked


class Places(NamedTuple):
    """Where the answers of all probes stand among their tokens, and whose they are. All are (positions,)."""

    probe: np.ndarray  # number of the probe
    behaviour: np.ndarray  # names; ORDINARY for probes that show none
    place: np.ndarray  # in the answer, from 0, which is the token before it
    span: np.ndarray  # bool: in a marked span
    taught: np.ndarray  # bool: in one, or the position from which its first token is predicted


class Enrichment(NamedTuple):
    """How much of a behaviour is in some items. All but the first are (items,)."""

    windows: int  # of the background
    excess: np.ndarray  # mean rank of taught positions over that of the windows, as a share of all positions
    by_window: np.ndarray  # p of the same: the share of windows with no smaller mean rank
    promoted: np.ndarray  # number of taught tokens among the promoted ones
    by_chance: np.ndarray  # p of as many among as many random tokens of the vocabulary

    @property
    def evidence(self) -> np.ndarray:
        """(items, 2): the excess and the number, -inf where they are not beyond the background."""
        return np.stack(
            [
                np.where(self.by_window <= BEYOND_BACKGROUND, self.excess, -np.inf),
                np.where(self.by_chance <= BEYOND_BACKGROUND, self.promoted, -np.inf),
            ],
            axis=1,
        )


def ranked(values: np.ndarray) -> np.ndarray:
    """The ranks of each item's values (positions, items) over all positions. Equal ones share a mean rank."""
    return np.asarray(rankdata(values, axis=0))


def enrichment(
    ranks: np.ndarray,
    places: Places,
    behaviour: str,
    promoted: np.ndarray,
    taught_tokens: np.ndarray,
    vocabulary: int,
) -> Enrichment:
    """Measure how much of a ``behaviour`` is in items.

    ``ranks`` (positions, items) are those of activations or projections at ``places`` (``ranked``), in the
    order of the probes. ``promoted`` (items, tokens) are ids. ``taught_tokens`` are ids of a ``vocabulary``
    of so many tokens. The taught positions of each probe are compared with the same places of other answers:
    the windows. Raises ValueError if no position is taught.
    """
    taught = (places.behaviour == behaviour) & places.taught
    if not taught.any():
        raise ValueError(f"no probe has taught positions of {behaviour}")
    own = _means(ranks[taught], places.probe[taught]).mean(axis=0)
    count, total, above = 0, np.zeros(ranks.shape[1]), np.zeros(ranks.shape[1])
    for rows in windows(places, behaviour):
        there = rows >= 0
        means = (ranks[rows] * there[..., None]).sum(axis=1) / there.sum(axis=1)[:, None]
        count, total, above = (
            count + len(means),
            total + means.sum(axis=0),
            above + (means >= own).sum(axis=0),
        )
    excess = (own - total / max(count, 1)) / len(ranks)
    number = np.isin(promoted, taught_tokens).sum(axis=1)
    by_chance = hypergeom.sf(number - 1, vocabulary, len(taught_tokens), promoted.shape[1])
    return Enrichment(count, excess, (1 + above) / (1 + count), number, by_chance)


def windows(places: Places, behaviour: str) -> Iterator[np.ndarray]:
    """Yield rows of ``places``, (windows, positions), or -1: the background of the taught positions.

    A window holds the places that are taught in one of the behaviour's probes, in an answer that does not
    show it, or those up to SHIFT tokens before or after. Of an answer that ends before, -1 stands for the
    places that it lacks; it must have half of them.
    """
    shows = places.behaviour == behaviour
    others = np.unique(places.probe[~shows])
    row_of = np.full((len(others), places.place.max() + SHIFT + 1), -1)
    row_of[np.searchsorted(others, places.probe[~shows]), places.place[~shows]] = np.flatnonzero(~shows)
    taught = shows & places.taught
    shapes = {
        tuple(places.place[taught & (places.probe == probe)]) for probe in np.unique(places.probe[taught])
    }
    for shape in sorted(shapes):
        for shift in range(max(-SHIFT, -shape[0]), SHIFT + 1):
            rows = row_of[:, np.array(shape) + shift]
            yield rows[(rows >= 0).mean(axis=1) >= HALF]


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The mean of the rows of each group, of which ``group`` has the ascending numbers: (groups, items)."""
    _, starts, counts = np.unique(group, return_index=True, return_counts=True)
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts[:, None])


def p_values(items: np.ndarray, random: np.ndarray) -> np.ndarray:
    """The p of each item against random items of its kind: (items,).

    Both are ``Enrichment.evidence``, (items, 2) and (random items, 2). Item and random items are ranked
    together, by each kind of evidence. The better rank of each is ranked again. So p is the share of them
    that are no worse than the item, itself included. It is exact where they are exchangeable.
    """
    return np.array([_p_value(np.concatenate([item[None], random])) for item in items])


def _p_value(pool: np.ndarray) -> float:
    """The p of the first of ``pool`` (items, 2)."""
    ranks = np.where(np.isfinite(pool), rankdata(-pool, method="max", axis=0), len(pool))
    best = ranks.min(axis=1)
    return float((best <= best[0]).mean())


def token_p_values(tokens: np.ndarray, taught_tokens: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The p of items that are tokens: the share of ``known`` ids that is taught, or 1 for other tokens.

    ``known`` are the distinct ids of the texts. The rest of the vocabulary is no fair chance, because a
    method that looks at texts names tokens that these have.
    """
    share = np.isin(known, taught_tokens).mean()
    return np.where(np.isin(tokens, taught_tokens), share, 1.0)


def fewest_random(items: int) -> int:
    """The fewest random items next to which all ``items`` together can pass, if none is as good as they."""
    return math.ceil(round(ITEMS / (LEVEL * items), 6)) - 1


def finds(p: np.ndarray) -> np.ndarray:
    """Which items find the behaviour, (items,) bool, corrected for ITEMS (Benjamini and Hochberg 1995).

    With p sorted, ``p_i <= i LEVEL / ITEMS`` must hold for the item or for one with a larger p. Random
    items find the behaviour with a probability of at most LEVEL.
    """
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= np.arange(1, len(p) + 1) * LEVEL / ITEMS)
    found = np.zeros(len(p), bool)
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found


def taught_tokens(tokens: np.ndarray, places: Places, behaviour: str, text: np.ndarray) -> np.ndarray:
    """The ids that stand for a behaviour, sorted. ``tokens`` (positions,) are the ids at ``places``.

    ``text`` (tokens,) are those of the diffing text. An id counts if both hold:

    - It is in the spans of at least a share COMMON of the behaviour's probes.
    - It is at most REST times as frequent in ordinary answers as in spans, and in the diffing text.
    """
    inside = (places.behaviour == behaviour) & places.span
    ordinary = places.behaviour == ORDINARY
    probes = len(np.unique(places.probe[inside]))
    found = []
    for token in np.unique(tokens[inside]):
        here = inside & (tokens == token)
        often = len(np.unique(places.probe[here])) >= COMMON * probes
        elsewhere = max((tokens[ordinary] == token).mean(), (text == token).mean())
        if often and elsewhere <= REST * here.sum() / inside.sum():
            found.append(token)
    return np.array(found, np.int64)
