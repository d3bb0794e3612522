"""Where latents fire: every activation of every latent, in one pass over the tokens that touches active entries only."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.pairs import PairedActivations, kept_blocks
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.texts.columns import taken

AT_ONCE = 4_000_000  # entries held before they are handed on: bounds memory, whatever the size of a shard


class Firings(NamedTuple):
    """All activations on some whole sequences of one shard, ordered by latent, then row."""

    shard: int  # number
    rows: np.ndarray  # (tokens,) the kept rows that were read, in order
    latent: np.ndarray  # (entries,) int32
    row: np.ndarray  # (entries,) int64, in the shard
    value: np.ndarray  # (entries,) float32


class _Entries(NamedTuple):
    """Entries in order of rows, on the device."""

    row: Tensor
    latent: Tensor
    value: Tensor

    @classmethod
    def join(cls, parts: "list[_Entries]") -> "_Entries":
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def read_firings(crosscoder: Crosscoder, activations: PairedActivations, tokens: int | None = None) -> Iterator[Firings]:
    """Activations on all kept tokens, or on about ``tokens``: as many from the start of every shard, so that no data set is left out.

    The last sequence is read to its end: a context that reaches past a cut would lack what fires there.
    """
    share = None if tokens is None else -(-tokens // len(activations.shards))
    device = crosscoder.decoder.device
    for number, shard in enumerate(activations.shards):
        starts = shard.tokens.sequence_starts()
        limit = None if share is None else _whole(np.flatnonzero(activations.summary.kept(shard)), starts, share)
        rows, waiting, size = [], [], 0
        for block_rows, block in kept_blocks(shard, activations.summary, limit):
            active = crosscoder.active(crosscoder.normalise(block.to(device)))
            rows.append(block_rows)
            waiting.append(_Entries(torch.from_numpy(block_rows).to(device)[active.rows], active.latents.int(), active.values))
            size += len(active.values)
            if size >= AT_ONCE:
                # The last sequence may go on in the next block: it waits.
                read, entries = np.concatenate(rows), _Entries.join(waiting)
                border = int(starts[np.searchsorted(starts, read[-1], side="right") - 1])
                n_rows, n_entries = int(np.searchsorted(read, border)), int((entries.row < border).sum())
                if n_rows:
                    yield _by_latent(number, read[:n_rows], taken(entries, slice(n_entries)))
                rows, waiting = [read[n_rows:]], [taken(entries, slice(n_entries, None))]
                size -= n_entries
        if rows:
            yield _by_latent(number, np.concatenate(rows), _Entries.join(waiting))


def _whole(rows: np.ndarray, starts: np.ndarray, share: int) -> int:
    """How many of the kept ``rows`` are ``share`` and what is left of the sequence that it ends in."""
    if share >= len(rows):
        return len(rows)
    sequence = np.searchsorted(starts, rows, side="right")
    return int(np.searchsorted(sequence, sequence[share - 1], side="right"))


def _by_latent(shard: int, rows: np.ndarray, entries: _Entries) -> Firings:
    order = torch.argsort(entries.latent, stable=True)
    row, latent, value = (column[order].cpu().numpy() for column in entries)
    return Firings(shard, rows, latent, row, value)
