"""Contexts in which a latent does not fire: random ones, and those most similar to contexts in which it does."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize

from crossdiff.explanations.contexts import Contexts, Text

SIMILAR = 25  # of each latent, in each half


class Similarity:
    """How alike contexts of a background and of latents are: the cosine of their tf-idf vectors.

    Similarity is measured after subtracting the average context; otherwise long contexts resemble everything. Tokens that the background
    lacks do not count.
    """

    def __init__(self, text: Text, background: Contexts) -> None:
        self.text, self.size = text, len(background.first)
        if not self.size:
            return  # scikit-learn takes no empty table, and there is nothing to compare with
        self.vocabulary = pd.Index(np.unique(text.token[background.rows()]))
        counts = self._counts(background, background.each_token(), self.size)
        self.weights = TfidfTransformer(norm=None, smooth_idf=False).fit(counts)
        self.weights.idf_ -= (
            1  # to log(contexts / contexts with the token): a token that is everywhere says nothing
        )
        weighted = self._weighted(counts)
        self.vectors, self.average = normalize(weighted), weighted.sum(axis=0) / counts.sum()

    def _counts(self, contexts: Contexts, group: np.ndarray, groups: int) -> csr_array:
        """(groups, vocabulary): how often each token is in each group of ``contexts``; ``group`` (tokens,) of each of their rows."""
        place = self.vocabulary.get_indexer(self.text.token[contexts.rows()])
        known = place >= 0
        return csr_array(
            (np.ones(known.sum()), (group[known], place[known])), shape=(groups, len(self.vocabulary))
        )

    def _weighted(self, counts: csr_array) -> csr_array:
        """Each count times the weight of its token. As an array again: scikit-learn gives a matrix, which computes by other rules."""
        return csr_array(self.weights.transform(counts))

    def of(self, contexts: Contexts, latents: int) -> np.ndarray:
        """(latents, background contexts): of all contexts of each latent together; rows do not compare with one another."""
        if not self.size:
            return np.zeros((latents, 0))
        counts = self._counts(contexts, contexts.latent[contexts.each_token()], latents)
        queries = self._weighted(normalize(counts, norm="l1"))
        return (queries @ self.vectors.T).toarray() - self.average @ self.vectors.T


def most_similar(similarity: np.ndarray, silent: np.ndarray, count: int = SIMILAR) -> np.ndarray:
    """(latents, contexts) bool: for each latent the ``count`` most similar contexts in which it is silent, all where there are fewer."""
    if silent.shape[1] <= count:
        return silent
    alike = np.where(silent, similarity, -np.inf)
    bound = np.partition(alike, -count, axis=1)[:, -count, None]
    # Equally similar ones may be more than are wanted: the earlier ones then.
    above, level = silent & (alike > bound), silent & (alike == bound)
    return above | level & (np.cumsum(level, axis=1) <= count - above.sum(axis=1, keepdims=True))
