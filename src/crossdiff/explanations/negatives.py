"""Contexts in which a latent does not fire: random ones, and those most similar to contexts in which it does."""

import numpy as np

from crossdiff.explanations.contexts import Contexts, Text

SIMILAR = 25  # of each latent, in each half


class Similarity:
    """How alike contexts of a background and of latents are: the cosine of their tokens' tf-idf."""

    def __init__(self, text: Text, background: Contexts) -> None:
        self.text, self.tokens = text, np.unique(text.token[background.rows()])
        tokens, counts = self._counts(background.rows(), background.each_token(), len(background.first))
        self.rarity = np.log(len(background.first) / np.maximum(np.bincount(tokens[0], minlength=len(self.tokens)), 1)).astype(np.float32)
        self.vectors = np.zeros((len(background.first), len(self.tokens)), np.float32)
        self.vectors[tokens[1], tokens[0]] = counts * self.rarity[tokens[0]]
        self.vectors /= np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-9)

    def _counts(self, rows: np.ndarray, group: np.ndarray, groups: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """((token, group), count) of the tokens that the background has, too."""
        token = self.text.token[rows]
        place = np.minimum(np.searchsorted(self.tokens, token), len(self.tokens) - 1)
        known = self.tokens[place] == token
        keys, counts = np.unique(place[known].astype(np.int64) * groups + group[known], return_counts=True)
        return (keys // groups, keys % groups), counts

    def of(self, contexts: Contexts, latents: int) -> np.ndarray:
        """(latents, background contexts): of all contexts of each latent together; their length is left out, so rows do not compare."""
        (token, latent), counts = self._counts(contexts.rows(), contexts.latent[contexts.each_token()].astype(np.int64), latents)
        queries = np.zeros((latents, len(self.tokens)), np.float32)
        queries[latent, token] = counts * self.rarity[token]
        return queries @ self.vectors.T


def most_similar(similarity: np.ndarray, silent: np.ndarray, count: int = SIMILAR) -> np.ndarray:
    """(latents, contexts) bool: for each latent the ``count`` most similar contexts in which it is silent, all where there are fewer."""
    if silent.shape[1] <= count:
        return silent
    alike = np.where(silent, similarity, -np.inf)
    bound = np.partition(alike, -count, axis=1)[:, -count, None]
    # Equally similar ones may be more than are wanted: the earlier ones then.
    above, level = silent & (alike > bound), silent & (alike == bound)
    return above | level & (np.cumsum(level, axis=1) <= count - above.sum(axis=1, keepdims=True))
