"""The pattern of every latent: the feature, or the few words, that best tell its contexts from those in which it does not fire."""

from typing import NamedTuple

import numpy as np

from crossdiff.explanations.contexts import Contexts
from crossdiff.explanations.features import NONE, WORDS, kind_of
from crossdiff.texts.columns import ranges

MOST_FEATURES = 5  # side by side in one pattern
LEAST_CONTEXTS = 2  # that a feature has to be found in: one may be chance
LEAST_GAIN = 0.03  # of balanced accuracy, by another word
ON_TOKEN_BONUS = 1e-3  # of two features that are equally good, the one that the latent fires on and not after


class Found(NamedTuple):
    """Which features are found in which contexts, each pair once, ordered by feature."""

    feature: np.ndarray  # int64
    context: np.ndarray  # int64

    @classmethod
    def of(cls, contexts: np.ndarray, features: np.ndarray) -> "Found":
        """``contexts``: (tokens,) the context of each token; ``features``: (tokens, columns)."""
        held = features != NONE
        feature, context = features[held], np.broadcast_to(contexts[:, None], features.shape)[held]
        names = _unique(feature)
        most = int(contexts.max(initial=0)) + 1
        pairs = _unique(np.searchsorted(names, feature) * most + context)
        return cls(names[pairs // most], pairs % most)

    def count(self, features: np.ndarray) -> np.ndarray:
        """In how many contexts each of ``features`` is found."""
        return np.searchsorted(self.feature, features, side="right") - np.searchsorted(self.feature, features)

    def of_features(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index in ``wanted``, context) of every place where one of the features is found; ``wanted`` may repeat a feature."""
        count = self.count(wanted)
        return np.repeat(np.arange(len(wanted)), count), self.context[
            ranges(np.searchsorted(self.feature, wanted), count)
        ]


class Candidates(NamedTuple):
    """Features of latents: arrays of one entry per pair, ordered by latent."""

    latent: np.ndarray
    feature: np.ndarray
    bonus: np.ndarray  # ON_TOKEN_BONUS times the share of its contexts in which the latent fires on it
    in_context: tuple[
        np.ndarray, np.ndarray
    ]  # (pair, context) of every place where it is found among the latent's own contexts
    in_background: tuple[np.ndarray, np.ndarray]  # (pair, context) in the background

    @classmethod
    def of(
        cls, contexts: Contexts, features: np.ndarray, fires: np.ndarray, background: Found, size: int
    ) -> "Candidates":
        """Features that are found in LEAST_CONTEXTS of a latent's contexts, and in a larger share of them than of the background.

        ``features`` and ``fires`` of every token of ``contexts``; ``size``: contexts of the background.
        """
        each = contexts.each_token()
        found, fired = Found.of(each, features), Found.of(each[fires], features[fires])
        names = _unique(found.feature)

        def keys(part: Found) -> np.ndarray:
            return contexts.latent[part.context].astype(np.int64) * len(names) + np.searchsorted(
                names, part.feature
            )

        pairs = _unique(keys(found))
        pair = np.searchsorted(pairs, keys(found))
        count = np.bincount(pair, minlength=len(pairs))
        on_token = np.bincount(np.searchsorted(pairs, keys(fired)), minlength=len(pairs))
        latent, name = np.divmod(pairs, max(len(names), 1))
        share = count / np.maximum(np.bincount(contexts.latent, minlength=1), 1)[latent]
        kept = np.flatnonzero(
            (count >= LEAST_CONTEXTS) & (share > background.count(names)[name] / max(size, 1))
        )
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
    """Sorted. By a sort, which is several times faster here than the hash table of np.unique."""
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]


class Pattern(NamedTuple):
    """The features of one latent, the best first; none where nothing tells its contexts apart."""

    features: list[int]
    on_token: bool  # the latent fires on the first one, not after it, in at least half of its contexts


def fit(candidates: Candidates, contexts: Contexts, weights: np.ndarray) -> dict[int, Pattern]:
    """Latent -> pattern, by greedy choice of the largest balanced accuracy.

    ``contexts``: of the latents, all for fitting. ``weights``: (latents, background contexts), each row a distribution over the contexts
    in which the latent does not fire; row 0 is the lowest latent's, numbered as ``candidates.latent`` is.
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
        # On go words that are worth something by themselves, of latents for which a word was found in this round.
        goes_on = np.zeros(len(weights), bool)
        goes_on[candidates.latent[best[is_word[best]]]] = True
        stays = goes_on[candidates.latent] & is_word & ~is_best & (gain > 0)
        pair, own = pair[stays[pair]], own[stays[pair]]
        place, background_pair = place[stays[background_pair]], background_pair[stays[background_pair]]
    return chosen


def _best(candidates: Candidates, gain: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The index of each latent's best candidate. Ties: what it fires on before what it fires after, then the simpler kind."""
    index = np.flatnonzero(enough)
    feature = candidates.feature[index]
    score = np.round(gain[index] + candidates.bonus[index], 9)  # sums in another order must not break a tie
    order = index[np.lexsort((feature, -score, candidates.latent[index]))]
    return order[np.flatnonzero(np.diff(candidates.latent[order], prepend=-1))]
