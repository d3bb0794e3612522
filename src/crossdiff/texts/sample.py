"""Draw a sample of a data set's training tokens, whose activations later stages read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossdiff.errors import UserError
from crossdiff.texts.shards import Shard, read_shard

SEED = 0  # of the order in which sequences are drawn: a larger sample holds a smaller one


def draw(shards: Sequence[str | Path], tokens: int) -> Shard:
    """Return random sequences of the token shards ``shards``, ``tokens`` tokens in all.

    Sequences stay in the order of the shards. One of them is cut where the sample is full. Raises UserError
    if the shards have fewer tokens.
    """
    read = [read_shard(path) for path in shards]
    joined = Shard(*(np.concatenate(columns) for columns in zip(*read, strict=True)))
    starts, stops = joined.sequence_bounds()
    if tokens > len(joined.token):
        raise UserError(
            f"activations.sample_tokens: found {tokens:,} for {shards[0]} and the shards after it, "
            f"allowed: up to their {len(joined.token):,} tokens"
        )
    order = np.random.default_rng(SEED).permutation(len(starts))
    ends = np.cumsum((stops - starts)[order])
    drawn = order[: int(np.searchsorted(ends, tokens)) + 1]
    stops[drawn[-1]] -= ends[len(drawn) - 1] - tokens
    rows = np.concatenate([np.arange(starts[sequence], stops[sequence]) for sequence in np.sort(drawn)])
    return Shard(*(column[rows] for column in joined))


def check_documents(samples: Sequence[Shard], fewest: int) -> None:
    """Raise UserError if the samples of all data sets together have fewer than ``fewest`` documents."""
    documents = len(np.unique(np.concatenate([sample.document for sample in samples])))
    if documents < fewest:
        tokens = sum(len(sample.token) for sample in samples)
        raise UserError(
            f"activations.sample_tokens: found {tokens:,}, which hold {documents} documents, allowed: "
            f"{fewest} documents or more (latent_scaling.bootstrap.blocks); raise it, or use store: all"
        )
