"""One pass of one model over one token shard, up to a layer."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.cache import write_cache
from crossdiff.errors import UserError
from crossdiff.models.forward import run_to_layer
from crossdiff.models.padding import padded
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)


def length_batches(starts: np.ndarray, rows: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Groups of sequence numbers, longest first, each group of at most ``batch_tokens`` padded tokens (or one sequence)."""
    lengths = np.diff(np.append(starts, rows))
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + size]
        first += size


def harvest(model: PreTrainedModel, shard: Shard, layer: int, batch_tokens: int) -> Tensor:
    """Output of block ``layer`` for every token, (tokens, d_model) bfloat16 on the CPU, in the shard's order.

    Raises UserError for NaN or infinite activations.
    """
    (starts, stops), rows = shard.sequence_bounds(), len(shard.token)
    activations: Tensor | None = None
    done = 0
    for group in length_batches(starts, rows, batch_tokens):
        ids, _ = padded([shard.token[starts[sequence] : stops[sequence]] for sequence in group])
        hidden = run_to_layer(model, ids.to(model.device), layer).to("cpu", torch.bfloat16)
        if activations is None:
            activations = torch.empty(rows, hidden.shape[-1], dtype=torch.bfloat16)
        for row, sequence in enumerate(group):
            activations[starts[sequence] : stops[sequence]] = hidden[row, : stops[sequence] - starts[sequence]]
        done += int((stops[group] - starts[group]).sum())
        log.info("%d of %d tokens", done, rows)
    bad = ~torch.isfinite(activations).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise UserError(
            f"{int(bad.sum()):,} of {rows:,} tokens have NaN or infinite activations at layer {layer}, "
            f"the first in row {row} (document {shard.document[row]}, position {shard.position[row]})"
        )
    return activations


def harvest_shard(model: PreTrainedModel, shard: Shard, layer: int, batch_tokens: int, path: str | Path) -> None:
    """Harvest and write the cache of one shard."""
    write_cache(path, harvest(model, shard, layer, batch_tokens), layer, shard.token)
