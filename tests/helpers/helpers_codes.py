"""Encoded blocks and files of active entries, from plain arrays and from caches."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from crossdiff.activations.pairs import Block, PairedActivations
from crossdiff.crosscoders.active_file import active_writer
from crossdiff.crosscoders.encoding import Encoded, encode
from crossdiff.crosscoders.model import Crosscoder


def encoded(crosscoder: Crosscoder, parts: Iterable[Tensor], document_tokens: int = 10) -> list[Encoded]:
    """Encode raw activations (tokens, model, d_model), in documents of ``document_tokens`` tokens.

    Documents are counted on over all parts.
    """
    blocks, first = [], 0
    for part in parts:
        rows = first + np.arange(len(part))
        blocks.append(Block(part, rows // document_tokens, 0, rows))
        first += len(part)
    return list(encode(crosscoder, blocks))


def active_file(path: Path, crosscoder: Crosscoder, activations: PairedActivations) -> Path:
    """Write the file of active entries of all kept tokens."""
    with active_writer(path, activations.token_shards) as writer:
        for _ in encode(crosscoder, activations.blocks(), writer):
            pass
    return path
