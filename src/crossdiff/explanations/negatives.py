"""Contexts in which a latent does not fire.

Some are random. Others are those most similar to contexts in which it fires.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize

from crossdiff.explanations.contexts import Contexts, Text

SIMILAR = 25  # similar contexts of each latent, in each half


class Similarity:
    """The similarity of background contexts to contexts of latents, as the cosine of their tf-idf vectors.

    The average context is subtracted first. Otherwise long contexts resemble everything. Tokens that are not
    in the background do not count.
    """

    def __init__(self, text: Text, background: Contexts) -> None:
        self.text, self.size = text, len(background.first)
        if not self.size:
            return  # there is nothing to compare with, and scikit-learn refuses an empty table
        self.vocabulary = pd.Index(np.unique(text.token[background.rows()]))
        counts = self._counts(background, background.each_token(), self.size)
        self.weights = TfidfTransformer(norm=None, smooth_idf=False).fit(counts)
        # Now log(contexts / contexts with the token), so that a token in all contexts has weight 0.
        self.weights.idf_ -= 1
        weighted = self._weighted(counts)
        self.vectors, self.average = normalize(weighted), weighted.sum(axis=0) / counts.sum()

    def _counts(self, contexts: Contexts, group: np.ndarray, groups: int) -> csr_array:
        """How often each token is in each group of ``contexts``: (groups, vocabulary).

        ``group`` (tokens,) is the group of each token.
        """
        place = self.vocabulary.get_indexer(self.text.token[contexts.rows()])
        known = place >= 0
        at = (group[known], place[known])
        return csr_array((np.ones(known.sum()), at), shape=(groups, len(self.vocabulary)))

    def _weighted(self, counts: csr_array) -> csr_array:
        """Multiply each count by the weight of its token.

        scikit-learn gives a sparse matrix. It is turned into an array again, because a matrix computes by
        other rules.
        """
        return csr_array(self.weights.transform(counts))

    def of(self, contexts: Contexts, latents: int) -> np.ndarray:
        """The similarity of all contexts of each latent together to each background context.

        Gives (latents, background contexts). Compare values within a row only.
        """
        if not self.size:
            return np.zeros((latents, 0))
        counts = self._counts(contexts, contexts.latent[contexts.each_token()], latents)
        queries = self._weighted(normalize(counts, norm="l1"))
        return (queries @ self.vectors.T).toarray() - self.average @ self.vectors.T


def most_similar(similarity: np.ndarray, silent: np.ndarray, count: int = SIMILAR) -> np.ndarray:
    """For each latent, choose the ``count`` most similar contexts in which it does not fire.

    ``similarity`` and ``silent`` (bool) are (latents, contexts), and so is the result (bool). If there are
    fewer such contexts, all are chosen.
    """
    if silent.shape[1] <= count:
        return silent
    alike = np.where(silent, similarity, -np.inf)
    bound = np.partition(alike, -count, axis=1)[:, -count, None]
    # If too many contexts are equally similar, the earlier ones are taken.
    above, level = silent & (alike > bound), silent & (alike == bound)
    return above | level & (np.cumsum(level, axis=1) <= count - above.sum(axis=1, keepdims=True))
