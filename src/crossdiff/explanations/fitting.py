"""The pattern of each latent.

It is the feature, or the few words, that best tell the latent's contexts from those in which it does not
fire.
"""

from typing import NamedTuple

import numpy as np

from crossdiff.explanations.contexts import Contexts
from crossdiff.explanations.features import NONE, WORDS, kind_of
from crossdiff.texts.columns import ranges

MOST_FEATURES = 5  # in one pattern
LEAST_CONTEXTS = 2  # a feature must be in this many contexts, because one may be chance
LEAST_GAIN = 0.03  # a further word must raise the balanced accuracy by more than this
ON_TOKEN_BONUS = 1e-3  # prefers, of two equally good features, the one that the latent fires on, not after


class Found(NamedTuple):
    """Which features are in which contexts. Each pair is listed once, in order of features."""

    feature: np.ndarray  # int64
    context: np.ndarray  # int64

    @classmethod
    def of(cls, contexts: np.ndarray, features: np.ndarray) -> "Found":
        """Collect the features of tokens.

        ``contexts`` (tokens,) is the context of each token. ``features`` is (tokens, columns).
        """
        held = features != NONE
        feature, context = features[held], np.broadcast_to(contexts[:, None], features.shape)[held]
        names = _unique(feature)
        most = int(contexts.max(initial=0)) + 1
        pairs = _unique(np.searchsorted(names, feature) * most + context)
        return cls(names[pairs // most], pairs % most)

    def counts_of(self, features: np.ndarray) -> np.ndarray:
        """The number of contexts that have each of ``features``."""
        return np.searchsorted(self.feature, features, side="right") - np.searchsorted(self.feature, features)

    def of_features(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the contexts that have some features.

        Gives (index in ``wanted``, context) for each of them. ``wanted`` may repeat a feature.
        """
        count = self.counts_of(wanted)
        entries = ranges(np.searchsorted(self.feature, wanted), count)
        return np.repeat(np.arange(len(wanted)), count), self.context[entries]


class Candidates(NamedTuple):
    """Features that may explain latents.

    Arrays have one entry per pair of latent and feature, ordered by latent, unless they say otherwise.
    """

    latent: np.ndarray
    feature: np.ndarray
    bonus: np.ndarray  # ON_TOKEN_BONUS times the share of its contexts in which the latent fires on it
    in_context: tuple[np.ndarray, np.ndarray]  # (pair, context) for every context of the latent that has it
    in_background: tuple[np.ndarray, np.ndarray]  # (pair, context) for every background context that has it

    @classmethod
    def of(
        cls, contexts: Contexts, features: np.ndarray, fires: np.ndarray, background: Found, size: int
    ) -> "Candidates":
        """Select features that are typical of a latent's contexts.

        They are in LEAST_CONTEXTS of them or more, and in a larger share of them than of the background.
        ``features`` (tokens, columns) and ``fires`` (tokens,) belong to the tokens of ``contexts``. ``size``
        is the number of background contexts.
        """
        each = contexts.each_token()
        found, fired = Found.of(each, features), Found.of(each[fires], features[fires])
        names = _unique(found.feature)

        def keys(part: Found) -> np.ndarray:
            latent = contexts.latent[part.context].astype(np.int64)
            return latent * len(names) + np.searchsorted(names, part.feature)

        pairs = _unique(keys(found))
        pair = np.searchsorted(pairs, keys(found))
        count = np.bincount(pair, minlength=len(pairs))
        on_token = np.bincount(np.searchsorted(pairs, keys(fired)), minlength=len(pairs))
        latent, name = np.divmod(pairs, max(len(names), 1))
        share = count / np.maximum(np.bincount(contexts.latent, minlength=1), 1)[latent]
        usual = background.counts_of(names)[name] / max(size, 1)
        kept = np.flatnonzero((count >= LEAST_CONTEXTS) & (share > usual))
        new = np.full(len(pairs), -1)
        new[kept] = np.arange(len(kept))
        stays = new[pair] >= 0
        return cls(
            latent=latent[kept],
            feature=names[name[kept]],
            bonus=ON_TOKEN_BONUS * on_token[kept] / count[kept],
            in_context=(new[pair][stays], found.context[stays]),
            in_background=background.of_features(names[name[kept]]),
        )


def _unique(values: np.ndarray) -> np.ndarray:
    """Sort the values and drop repeated ones.

    Sorting is several times as fast here as the hash table of np.unique.
    """
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]


class Pattern(NamedTuple):
    """The features of one latent, the best first."""

    features: list[int]
    on_token: bool  # whether the latent fires on the first one, not after it, in at least half its contexts


def fit(candidates: Candidates, contexts: Contexts, weights: np.ndarray) -> dict[int, Pattern]:
    """Fit a pattern to each latent, by greedy choice of the largest balanced accuracy: latent -> pattern.

    A latent without a feature that tells its contexts apart has no pattern. ``contexts`` are the latents'
    contexts for fitting. ``weights`` is (latents, background contexts): each row is a distribution over the
    contexts in which the latent does not fire. Latents are numbered as in ``candidates.latent``.
    """
    (pair, own), (background_pair, background) = candidates.in_context, candidates.in_background
    total = np.bincount(contexts.latent, minlength=len(weights)).astype(float)
    open_own = np.ones(len(contexts.latent))  # contexts that the pattern does not name yet
    open_weights = weights.ravel().copy()
    place = candidates.latent[background_pair] * weights.shape[1] + background
    is_word = np.isin(kind_of(candidates.feature), WORDS)
    chosen: dict[int, Pattern] = {}
    for number in range(MOST_FEATURES):
        new = np.bincount(pair, open_own[own], minlength=len(is_word))
        wrong = np.bincount(background_pair, open_weights[place], minlength=len(is_word))
        gain = (new / total[candidates.latent] - wrong) / 2
        best = _best(candidates, gain, (gain > LEAST_GAIN) & (new >= LEAST_CONTEXTS))
        for index in best.tolist():
            latent, feature = int(candidates.latent[index]), int(candidates.feature[index])
            if number:
                chosen[latent].features.append(feature)
            else:
                chosen[latent] = Pattern([feature], bool(candidates.bonus[index] >= ON_TOKEN_BONUS / 2))
        is_best = np.zeros(len(is_word), bool)
        is_best[best] = True
        open_own[own[is_best[pair]]] = 0
        open_weights[place[is_best[background_pair]]] = 0
        # Latents for which this round found a word go on, with words that raise the accuracy on their own.
        goes_on = np.zeros(len(weights), bool)
        goes_on[candidates.latent[best[is_word[best]]]] = True
        stays = goes_on[candidates.latent] & is_word & ~is_best & (gain > 0)
        pair, own = pair[stays[pair]], own[stays[pair]]
        place, background_pair = place[stays[background_pair]], background_pair[stays[background_pair]]
    return chosen


def _best(candidates: Candidates, gain: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The index of each latent's best candidate.

    If candidates tie, one that the latent fires on comes before one that it fires after, then the simpler
    kind.
    """
    index = np.flatnonzero(enough)
    feature = candidates.feature[index]
    # Rounded, so that the order of summation does not break a tie.
    score = np.round(gain[index] + candidates.bonus[index], 9)
    order = index[np.lexsort((feature, -score, candidates.latent[index]))]
    return order[np.flatnonzero(np.diff(candidates.latent[order], prepend=-1))]
