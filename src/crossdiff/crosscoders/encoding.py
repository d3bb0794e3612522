"""Encode every token once, block by block.

Codes come together with the activations that they encode. They are also written to a file for everything that
needs codes alone.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.pairs import Block
from crossdiff.crosscoders.active_file import ActiveWriter
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, Places
from crossdiff.device import is_synchronous, to_device

# Tokens that a GPU takes at once. A sum over a block writes a row per latent, however few tokens the block
# has, so blocks should be few and large.
TOKENS_ON_GPU = 16_384


class Encoded(NamedTuple):
    """Some token pairs in order, with their codes."""

    x: Tensor  # (tokens, model, d_model) on the crosscoder's scale
    active: Active
    documents: np.ndarray  # (tokens,) int64

    def part(self, first: int, stop: int) -> "Encoded":
        """Return the tokens ``first`` to ``stop`` (exclusive)."""
        if (first, stop) == (0, len(self.x)):
            return self
        rows, latents, values = self.active.rows, self.active.latents, self.active.values
        low, high = torch.searchsorted(rows, torch.tensor([first, stop], device=rows.device)).tolist()
        places = Places(rows[low:high] - first, latents[low:high], (stop - first, self.active.shape[1]))
        return Encoded(self.x[first:stop], Active(places, values[low:high]), self.documents[first:stop])


@torch.no_grad()
def encode(
    crosscoder: Crosscoder, blocks: Iterable[Block], writer: ActiveWriter | None = None
) -> Iterator[Encoded]:
    """Yield raw ``blocks`` on the crosscoder's scale, with their codes.

    A GPU takes several blocks of a shard as one. If there is a ``writer``, it gets the codes, too.
    """
    device = crosscoder.decoder.device
    for block in blocks if is_synchronous(device) else _joined(blocks, TOKENS_ON_GPU):
        x = crosscoder.normalise(to_device(block.activations, device))
        active = crosscoder.active(x)
        if writer:
            counts = torch.bincount(active.rows, minlength=len(x))
            columns = (column.cpu().numpy() for column in (counts, active.latents.int(), active.values))
            writer.add(block.shard, block.rows, *columns)
        yield Encoded(x, active, block.documents)


def _joined(blocks: Iterable[Block], tokens: int) -> Iterator[Block]:
    """Join blocks until they have at least ``tokens`` tokens, or until the shard ends."""
    waiting: list[Block] = []
    for block in blocks:
        if waiting and (block.shard != waiting[0].shard or sum(len(part.rows) for part in waiting) >= tokens):
            yield _one(waiting)
            waiting = []
        waiting.append(block)
    if waiting:
        yield _one(waiting)


def _one(blocks: list[Block]) -> Block:
    activations, documents, shards, rows = zip(*blocks, strict=True)
    return Block(torch.cat(activations), np.concatenate(documents), shards[0], np.concatenate(rows))
