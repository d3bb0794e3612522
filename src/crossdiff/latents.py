"""Where latents fire: their strongest contexts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from crossdiff.activations.pairs import PairedActivations, PairedShard, Summary, kept_blocks
from crossdiff.config import Examples
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active


class Firings(NamedTuple):
    """Every activation of every latent on one shard, ordered by latent, then row."""

    latent: np.ndarray
    row: np.ndarray  # in the shard
    value: np.ndarray

    def by_latent(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(latent, rows, values) of every latent that fired."""
        latents, starts = np.unique(self.latent, return_index=True)
        for latent, start, stop in zip(latents, starts, [*starts[1:], len(self.latent)], strict=False):
            yield int(latent), self.row[start:stop], self.value[start:stop]


def firings(crosscoder: Crosscoder, shard: PairedShard, summary: Summary, limit: int) -> Firings:
    """Activations on the first ``limit`` kept tokens of a shard."""
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for rows, block in kept_blocks(shard, summary, limit):
        active = Active.of(crosscoder.encode(crosscoder.normalise(block.to(crosscoder.decoder.device))))
        parts.append((active.latents.cpu().numpy(), rows[active.rows.cpu().numpy()], active.values.cpu().numpy()))
    latent, row, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((row, latent))
    return Firings(latent[order], row[order], value[order])


COLUMNS = ("latent", "shard", "document", "peak", "start", "tokens", "template", "activations")


def strongest_examples(crosscoder: Crosscoder, activations: PairedActivations, settings: Examples) -> pd.DataFrame:
    """The ``per_latent`` strongest contexts of every latent, at most one per sequence, strongest first, in one pass.

    Columns: latent, shard (number), document, peak (largest activation in the sequence), start (row of the context's first token) and,
    per token of the context, lists of tokens (ids), template (0 content, 1 header, 2 turn end) and activations.
    """
    found = []
    left = settings.tokens
    for number, shard in enumerate(activations.shards):
        if left <= 0:
            break
        starts = shard.tokens.sequence_starts()
        for latent, rows, values in firings(crosscoder, shard, activations.summary, left).by_latent():
            found += [(latent, number, *context) for context in _contexts(shard, starts, rows, values, settings)]
        left -= int(activations.summary.kept(shard).sum())
    table = pd.DataFrame(found, columns=COLUMNS).astype({"peak": float})
    table = table.sort_values(["latent", "peak", "shard", "start"], ascending=[True, False, True, True], kind="stable")
    return table.groupby("latent").head(settings.per_latent).reset_index(drop=True)


def _contexts(shard: PairedShard, starts: np.ndarray, rows: np.ndarray, values: np.ndarray, settings: Examples) -> Iterator[tuple]:
    sequence = np.searchsorted(starts, rows, side="right") - 1
    firsts = np.flatnonzero(np.diff(sequence, prepend=-1))  # rows are in order, so a sequence's firings lie together
    peaks = np.maximum.reduceat(values, firsts)
    for group in np.argsort(-peaks, kind="stable")[: settings.per_latent]:
        first, last = firsts[group], (firsts[group + 1] if group + 1 < len(firsts) else len(rows))
        peak_row = rows[first:last][values[first:last].argmax()]
        begin = starts[sequence[first]]
        end = starts[sequence[first] + 1] if sequence[first] + 1 < len(starts) else shard.rows
        begin, end = max(begin, peak_row - settings.before), min(end, peak_row + settings.after + 1)
        activations = np.zeros(end - begin, np.float32)
        inside = (rows >= begin) & (rows < end)
        activations[rows[inside] - begin] = values[inside]
        tokens = shard.tokens
        yield (
            int(tokens.document[peak_row]),
            float(peaks[group]),
            int(begin),
            tokens.token[begin:end].tolist(),
            tokens.template[begin:end].tolist(),
            activations.round(4).tolist(),
        )
