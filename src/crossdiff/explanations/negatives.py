"""Contexts in which a latent does not fire: random ones, and those most similar to contexts in which it does."""

import numpy as np

from crossdiff.explanations.contexts import Contexts, Text

SIMILAR = 25  # of each latent, in each half


class Similarity:
    """How alike contexts of a background and of latents are: the cosine of one's tf-idf and of what the others have more of than usual.

    Usual is the background. Without that difference, long contexts would be like everything.
    """

    def __init__(self, text: Text, background: Contexts) -> None:
        self.text, self.tokens = text, np.unique(text.token[background.rows()])
        size = len(background.first)
        (token, context), counts = self._counts(background.rows(), background.each_token(), size)
        self.rarity = np.log(size / np.maximum(np.bincount(token, minlength=len(self.tokens)), 1)).astype(np.float32)
        self.vectors = np.zeros((size, len(self.tokens)), np.float32)
        self.vectors[context, token] = counts * self.rarity[token]
        self.usual = self.vectors.sum(axis=0) / max(counts.sum(), 1)
        self.vectors /= np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-9)

    def _counts(self, rows: np.ndarray, group: np.ndarray, groups: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """((token, group), count) of the tokens that the background has, too."""
        token = self.text.token[rows]
        place = np.minimum(np.searchsorted(self.tokens, token), max(len(self.tokens) - 1, 0))
        known = self.tokens[place] == token if len(self.tokens) else np.zeros(len(token), bool)
        keys, counts = np.unique(place[known].astype(np.int64) * groups + group[known], return_counts=True)
        return (keys // groups, keys % groups), counts

    def of(self, contexts: Contexts, latents: int) -> np.ndarray:
        """(latents, background contexts): of all contexts of each latent together; rows do not compare with one another."""
        (token, latent), counts = self._counts(contexts.rows(), contexts.latent[contexts.each_token()].astype(np.int64), latents)
        total = np.maximum(np.bincount(latent, counts, minlength=latents), 1)
        queries = np.zeros((latents, len(self.tokens)), np.float32)
        queries[latent, token] = counts / total[latent] * self.rarity[token]
        return (queries - self.usual) @ self.vectors.T


def most_similar(similarity: np.ndarray, silent: np.ndarray, count: int = SIMILAR) -> np.ndarray:
    """(latents, contexts) bool: for each latent the ``count`` most similar contexts in which it is silent, all where there are fewer."""
    if silent.shape[1] <= count:
        return silent
    alike = np.where(silent, similarity, -np.inf)
    bound = np.partition(alike, -count, axis=1)[:, -count, None]
    # Equally similar ones may be more than are wanted: the earlier ones then.
    above, level = silent & (alike > bound), silent & (alike == bound)
    return above | level & (np.cumsum(level, axis=1) <= count - above.sum(axis=1, keepdims=True))
