"""Contexts of latents and of the background as rows of one long text, and their split into two halves."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.texts.chats import CONTENT
from crossdiff.texts.columns import places, ranges
from crossdiff.texts.shards import Shard, read_shard


class Text(NamedTuple):
    """The tokens of all shards, one shard after the other. Each field is (rows,) unless it says otherwise."""

    token: np.ndarray  # int32
    position: np.ndarray  # int32, in the sequence
    role: np.ndarray  # int8
    template: np.ndarray  # int8
    opens: np.ndarray  # bool: in a sequence that opens its document, and no later window of it
    first_row: np.ndarray  # (shards,) row of each shard's first token

    @classmethod
    def of(cls, paths: Sequence[str | Path], sampled: bool = False) -> "Text":
        """Read the shards at ``paths``, in the order in which the texts were read.

        ``sampled``: whether they hold a random sample of sequences. Then nothing says which of them open a
        document.
        """
        shards = [read_shard(path) for path in paths]
        return cls(
            opens=_opens(shards) & (not sampled),
            token=np.concatenate([shard.token for shard in shards]),
            position=np.concatenate([shard.position for shard in shards]),
            role=np.concatenate([shard.role for shard in shards]),
            template=np.concatenate([shard.template for shard in shards]),
            first_row=np.cumsum([0, *(len(shard.token) for shard in shards)])[:-1],
        )

    def since_template(self) -> np.ndarray:
        """The distance of each token from the last template token of its sequence, (rows,) int32.

        It is 0 for template tokens. Before the first template token, it counts from the sequence's start.
        """
        row = np.arange(len(self.token))
        starts = (self.template != CONTENT) | (self.position == 0)
        return (row - np.maximum.accumulate(np.where(starts, row, 0))).astype(np.int32)


def _opens(shards: Sequence[Shard]) -> np.ndarray:
    """Whether each token stands in the first sequence of its document, (rows,) bool.

    A long document is cut into windows, which are sequences one after the other, also across shards. A text
    that comes twice in a row looks like one document. Then its second copy does not count as an opening.
    """
    document = np.concatenate([shard.document for shard in shards])
    position = np.concatenate([shard.position for shard in shards])
    starts = np.flatnonzero(position == 0)
    before = np.where(starts > 0, document[starts - 1], ~document[starts])
    return np.repeat(document[starts] != before, np.diff(starts, append=len(document)))


class Contexts(NamedTuple):
    """Contexts. Each field is (contexts,).

    A context ends where the latent peaks, because a causal model can't see what follows.
    """

    latent: np.ndarray  # int32, -1 in the background
    scored: np.ndarray  # bool: in the half for scoring explanations; the other half is for fitting them
    sampled: np.ndarray  # bool: in the random sample of its quantile
    quantile: np.ndarray  # float64, upper edge of the bin
    first: np.ndarray  # int64, row of the first token
    length: np.ndarray  # int64, number of tokens

    def rows(self) -> np.ndarray:
        """The rows of all tokens, context after context: (tokens,)."""
        return ranges(self.first, self.length)

    def each_token(self) -> np.ndarray:
        """The number of the context of each of ``rows``: (tokens,)."""
        return np.repeat(np.arange(len(self.first)), self.length)


class FiringContexts(NamedTuple):
    """Contexts in which latents fire, and on which of their tokens."""

    contexts: Contexts
    fires: np.ndarray  # (tokens,) bool, for each of ``contexts.rows()``


class Background(NamedTuple):
    """Random contexts, and which latents fire anywhere in each."""

    contexts: Contexts
    pairs: np.ndarray  # (n, 2): context, latent

    def silent(self, first: int, stop: int, scored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Find the contexts of one half in which latents do not fire.

        Gives the numbers of the half's contexts, and (latents, contexts) bool: whether each latent from
        ``first`` to ``stop`` does not fire there.
        """
        chosen = np.flatnonzero(self.contexts.scored == scored)
        silent = np.ones((stop - first, len(self.contexts.scored)), bool)
        mine = self.pairs[(self.pairs[:, 1] >= first) & (self.pairs[:, 1] < stop)]
        silent[mine[:, 1] - first, mine[:, 0]] = False
        return chosen, silent[:, chosen]


def is_scored(document: np.ndarray) -> np.ndarray:
    """Whether contexts of each document are for scoring, (documents,) bool.

    The hash of the document decides. So no document is in both halves, for any latent.
    """
    return pd.util.hash_array(np.asarray(document, np.int64)) % np.uint64(2) == 1


def read_examples(path: str | Path, text: Text, first: int, stop: int) -> FiringContexts:
    """Read the contexts of the latents from ``first`` up to ``stop``, in order of latents."""
    table = pq.read_table(path, filters=[("latent", ">=", first), ("latent", "<", stop)])
    columns = {
        name: table[name].to_numpy()
        for name in ("latent", "shard", "document", "peak", "quantile", "sampled", "start")
    }
    activations = table["activations"].combine_chunks()
    if isinstance(activations, pa.ChunkedArray):  # no rows
        activations = pa.array([], activations.type)
    value, width = activations.flatten().to_numpy(), np.diff(activations.offsets.to_numpy())
    context = np.repeat(np.arange(len(width)), width)
    place = places(width)
    at_peak = np.flatnonzero(value == columns["peak"][context])
    # If several tokens reach the peak, the first one counts.
    centre = place[at_peak[np.searchsorted(context[at_peak], np.arange(len(width)))]]
    contexts = Contexts(
        latent=columns["latent"],
        scored=is_scored(columns["document"]),
        sampled=columns["sampled"],
        quantile=columns["quantile"],
        first=text.first_row[columns["shard"]] + columns["start"],
        length=centre + 1,
    )
    return FiringContexts(contexts, value[place <= centre[context]] > 0)


def read_background(path: str | Path, text: Text) -> Background:
    """Read the random contexts of a crosscoder."""
    table = pq.read_table(path, columns=["shard", "document", "start", "centre", "latents"])
    columns = {name: table[name].to_numpy() for name in ("shard", "document", "start", "centre")}
    count = len(columns["start"])
    latents = table["latents"].to_pylist() if not count else table["latents"].combine_chunks()
    pairs = np.empty((0, 2), np.int64)
    if count:
        width = np.diff(latents.offsets.to_numpy())
        pairs = np.stack([np.repeat(np.arange(count), width), latents.flatten().to_numpy()], axis=1)
    contexts = Contexts(
        latent=np.full(count, -1, np.int32),
        scored=is_scored(columns["document"]),
        sampled=np.ones(count, bool),
        quantile=np.full(count, np.nan),
        first=text.first_row[columns["shard"]] + columns["start"],
        length=columns["centre"].astype(np.int64) + 1,
    )
    return Background(contexts, pairs)
