"""Diff mining: which tokens the chat model promotes over the text, and topics of these (arXiv 2608.26462).

At each position the tokens with the largest difference of logits, log p_chat - log p_base, are taken, of
those that the chat model gives at least ``passes.LIKELY``: rare tokens would drown all others. The
distributions' normalisation shifts all tokens of a position alike, so it changes no order.
"""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from transformers import PreTrainedModel

from crossdiff.first_look.passes import one_pass
from crossdiff.texts.shards import Shard

TOKENS = 40  # in the table of promoted tokens
TOPICS = 6
OF_TOPIC = 12  # tokens shown of a topic
FEWEST = 3  # positions that a token of a topic is promoted at
VOCABULARY = 2000  # most frequently promoted tokens that topics are made of
STEPS = 200  # of the factorisation, at most


def mined(base: PreTrainedModel, chat: PreTrainedModel, shard: Shard, batch_tokens: int) -> np.ndarray:
    """The ids of the tokens of ``promoted_table`` over all positions of ``shard``, the most frequent first.

    Raises UserError for a token that a model can't read.
    """
    found = one_pass(base, chat, shard, np.full(len(shard.token), -1), 0, batch_tokens)
    return promoted_table(found.promoted, found.promoted_by).token.to_numpy()


def promoted_table(promoted: np.ndarray, promoted_by: np.ndarray) -> pd.DataFrame:
    """Rank tokens by how often they are among the most promoted ones: the TOKENS first ones.

    ``promoted`` and ``promoted_by`` (positions, k) are ids and differences of logits. A token is at most once
    in a row. Only differences above 0 count. Columns:

    - token: id
    - share: share of all positions at which the token is among the k most promoted ones
    - mean: mean difference of its logits there
    """
    up = promoted_by > 0
    table = pd.DataFrame({"token": promoted[up], "by": promoted_by[up]}).groupby("token").by
    found = table.agg(["size", "mean"]).reset_index()
    found["share"] = found["size"] / max(1, len(promoted))
    found = found.sort_values(["share", "mean"], ascending=False, kind="stable").head(TOKENS)
    return found[["token", "share", "mean"]].reset_index(drop=True)


def topics(promoted: np.ndarray, promoted_by: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Factorise the promoted tokens into topics: differences of logits, about weights times topics (NMF).

    The matrix (positions, tokens) has the differences of ``promoted_table``, and 0 elsewhere. Each position
    is scaled to length 1 first, so that a few large differences do not decide. Gives a table and the weight
    of each topic at each position, (positions, topics), on the scale of the table. Columns:

    - topic: number from 1, the largest first
    - share: the topic's part of all weights
    - tokens: ids of the OF_TOPIC tokens with the largest entries, the largest first
    - entries: their entries over the topic's largest
    """
    up = promoted_by > 0
    rows = np.repeat(np.arange(len(promoted)), up.sum(axis=1))
    ids, counts = np.unique(promoted[up], return_counts=True)
    kept = ids[np.argsort(-counts, kind="stable")][: min(VOCABULARY, int((counts >= FEWEST).sum()))]
    kept = np.sort(kept)
    is_kept = np.isin(promoted[up], kept)
    number = min(TOPICS, len(kept), len(np.unique(rows[is_kept])))
    if not number:
        return pd.DataFrame(columns=["topic", "share", "tokens", "entries"]), np.zeros((len(promoted), 0))
    places = (rows[is_kept], np.searchsorted(kept, promoted[up][is_kept]))
    matrix = csr_matrix((promoted_by[up][is_kept].astype(np.float64), places), (len(promoted), len(kept)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    scaled = csr_matrix(matrix.multiply(1 / np.maximum(lengths, np.finfo(float).tiny)[:, None]))
    model = NMF(number, init="nndsvd", random_state=0, max_iter=STEPS, tol=1e-3)
    # The last digits of a topic change nothing that is shown, and the error of an exact factorisation may be
    # the root of a little less than 0.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights = model.fit_transform(scaled)
    largest = model.components_.max(axis=1)
    weights = weights * largest
    order = [topic for topic in np.argsort(-weights.sum(axis=0), kind="stable") if largest[topic] > 0]
    table = []
    for place, topic in enumerate(order, 1):
        entries = model.components_[topic] / largest[topic]
        best = np.argsort(-entries, kind="stable")[:OF_TOPIC]
        best = best[entries[best] > 0]
        share = weights[:, topic].sum() / weights.sum()
        row = {"topic": place, "share": share, "tokens": kept[best], "entries": entries[best]}
        table.append(row)
    return pd.DataFrame(table), weights[:, order]
