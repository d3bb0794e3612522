"""The pattern of every latent: the feature, or the few words, that best tell its contexts from those in which it does not fire."""

from typing import NamedTuple

import numpy as np

from crossdiff.explanations.contexts import Contexts
from crossdiff.explanations.features import NONE, WORDS, kind_of

MOST_FEATURES = 5  # side by side in one pattern
LEAST_CONTEXTS = 2  # that a feature has to be found in: one may be chance
LEAST_GAIN = 0.02  # of balanced accuracy, by another word
ON_TOKEN_BONUS = 1e-3  # of two features that are equally good, the one that the latent fires on and not after


class Found(NamedTuple):
    """Which features are found in which contexts, each pair once, ordered by feature."""

    feature: np.ndarray  # int64
    context: np.ndarray  # int64

    @classmethod
    def of(cls, contexts: np.ndarray, features: np.ndarray) -> "Found":
        """``contexts``: (tokens,) the context of each token; ``features``: (tokens, columns)."""
        feature, context = features.ravel(), np.repeat(contexts, features.shape[1])
        held = feature != NONE
        names, number = np.unique(feature[held], return_inverse=True)
        most = int(contexts.max(initial=0)) + 1
        pairs = np.unique(number * most + context[held])
        return cls(names[pairs // most], pairs % most)

    def of_features(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index in ``wanted``, context) of every place where one of the features is found; ``wanted`` may repeat a feature."""
        low, high = np.searchsorted(self.feature, wanted), np.searchsorted(self.feature, wanted, side="right")
        count = high - low
        index = np.repeat(np.arange(len(wanted)), count)
        return index, self.context[np.arange(len(index)) + np.repeat(low - (np.cumsum(count) - count), count)]


class Candidates(NamedTuple):
    """Features of latents: arrays of one entry per pair, ordered by latent."""

    latent: np.ndarray
    feature: np.ndarray
    bonus: np.ndarray  # ON_TOKEN_BONUS times the share of its contexts in which the latent fires on it
    in_context: tuple[np.ndarray, np.ndarray]  # (pair, context) of every place where it is found among the latent's own contexts
    in_background: tuple[np.ndarray, np.ndarray]  # (pair, context) in the background

    @classmethod
    def of(cls, contexts: Contexts, features: np.ndarray, fires: np.ndarray, background: Found) -> "Candidates":
        """``features`` and ``fires`` of every token of ``contexts``."""
        each = contexts.each_token()
        found = Found.of(each, features)
        fired = Found.of(each[fires], features[fires])
        names = np.unique(found.feature)
        number, latent = np.searchsorted(names, found.feature), contexts.latent[found.context].astype(np.int64)
        keys, pair, count = np.unique(latent * len(names) + number, return_inverse=True, return_counts=True)
        on_token = np.bincount(
            np.searchsorted(keys, contexts.latent[fired.context].astype(np.int64) * len(names) + np.searchsorted(names, fired.feature)),
            minlength=len(keys),
        )
        kept = np.flatnonzero(count >= LEAST_CONTEXTS)
        new = np.full(len(keys), -1)
        new[kept] = np.arange(len(kept))
        stays = new[pair] >= 0
        feature = names[keys[kept] % max(len(names), 1)]
        return cls(
            latent=keys[kept] // max(len(names), 1),
            feature=feature,
            bonus=ON_TOKEN_BONUS * on_token[kept] / count[kept],
            in_context=(new[pair][stays], found.context[stays]),
            in_background=background.of_features(feature),
        )


class Pattern(NamedTuple):
    """The features of one latent, the best first; none where nothing tells its contexts apart."""

    features: list[int]
    on_token: bool  # the latent fires on the first one, not after it, in at least half of its contexts


def fit(candidates: Candidates, contexts: Contexts, weights: np.ndarray) -> dict[int, Pattern]:
    """Latent -> pattern, by greedy choice of the largest balanced accuracy.

    ``contexts``: of the latents, all for fitting. ``weights``: (latents, background contexts), each row a distribution over the contexts
    in which the latent does not fire; row 0 is the lowest latent's, numbered as ``candidates.latent`` is.
    """
    pair, own = candidates.in_context
    background_pair, background = candidates.in_background
    total = np.bincount(contexts.latent, minlength=len(weights)).astype(float)
    open_own = np.ones(len(contexts.latent))  # contexts that the pattern does not name yet
    open_weights = weights.copy()
    is_word = np.isin(kind_of(candidates.feature), WORDS)
    chosen: dict[int, Pattern] = {}
    allowed = np.ones(len(candidates.latent), bool)
    for number in range(MOST_FEATURES):
        new = np.bincount(pair, open_own[own], minlength=len(allowed))
        wrong = np.bincount(background_pair, open_weights[candidates.latent[background_pair], background], minlength=len(allowed))
        gain = (new / total[candidates.latent] - wrong) / 2
        enough = allowed & (gain > (LEAST_GAIN if number else 0)) & (new >= LEAST_CONTEXTS)
        if number:
            enough &= is_word
        best = _best(candidates, gain, enough)
        for index in best.tolist():
            latent, feature = int(candidates.latent[index]), int(candidates.feature[index])
            if number:
                chosen[latent].features.append(feature)
            else:
                chosen[latent] = Pattern([feature], bool(candidates.bonus[index] >= ON_TOKEN_BONUS / 2))
        is_best = np.zeros(len(allowed), bool)
        is_best[best] = True
        open_own[own[is_best[pair]]] = 0
        hit = is_best[background_pair]
        open_weights[candidates.latent[background_pair[hit]], background[hit]] = 0
        # Only latents that a word was found for in this round go on.
        goes_on = np.zeros(len(weights), bool)
        goes_on[candidates.latent[best[is_word[best]]]] = True
        allowed = goes_on[candidates.latent] & ~is_best
    return chosen


def _best(candidates: Candidates, gain: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The index of each latent's best candidate. Ties: what it fires on before what it fires after, then the simpler kind."""
    index = np.flatnonzero(enough)
    feature = candidates.feature[index]
    score = np.round(gain[index] + candidates.bonus[index], 9)  # sums in another order must not break a tie
    order = index[np.lexsort((feature, -score, candidates.latent[index]))]
    return order[np.flatnonzero(np.diff(candidates.latent[order], prepend=-1))]
