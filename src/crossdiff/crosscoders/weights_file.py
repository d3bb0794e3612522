"""Safetensors files of float32 weights, written piece by piece.

The library's writer wants each tensor whole, contiguous and on the CPU. So it needs a second copy of weights
that lie on a GPU, or that are views of a mapped file in another order of axes. This writer needs a piece.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

PIECE = 1 << 23  # values of a piece, 32 MB


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's rows in their order, in pieces that are contiguous, in float32 and on the CPU."""
    rows = tensor.detach() if tensor.dim() else tensor.detach()[None]
    for piece in rows.split(max(1, PIECE // max(1, math.prod(rows.shape[1:])))):
        yield piece.to("cpu", torch.float32).contiguous()


def save_weights(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors of any shape in float32, with the bytes that safetensors' ``save_file`` writes.

    Source: the format at https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(tensors):  # tensors of one type lie in the order of their names
        begin, end = end, end + 4 * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            for piece in pieces(tensors[name]):
                file.write(piece.numpy().data)
