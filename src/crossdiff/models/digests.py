"""A digest of what a model has in memory."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.integrations.accelerate import load_offloaded_parameter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROW = 4096  # words of 32 bits that one sum covers
# Rows that are summed at once. On a CPU they stay in the cache, and torch keeps to one thread: several would
# wait for each other at each step, which costs more than it saves where other programs run.
ROWS = {"cpu": 7, "cuda": 1024}


def digest(model: "PreTrainedModel", adapter: Mapping[str, Any] | None = None) -> str:
    """A digest of the loaded parameters and buffers, as 32 hexadecimal digits.

    It covers the names, shapes, types and all bytes of all tensors, those of an adapter and those that no
    file holds (such as rotary frequencies) too. It is the same on all devices, and for weights that wait in
    main memory. It covers the settings of an ``adapter``, too, which decide how strong it is. Weights of few
    bits are covered as they are stored.

    The bytes are read once, as words of 32 bits. Each row of ROW words x gives the sum over i of key_i x_i,
    modulo 2^64, with fixed keys of 64 bits. Two rows that differ have the same sum with a probability of at
    most 2^-33 (multilinear hashing: Lemire & Kaser, arXiv 1202.4961). The digest is the SHA-256 of the sums.
    """
    whole = hashlib.sha256(json.dumps(adapter, sort_keys=True).encode() if adapter else b"")
    tensors: dict[str, torch.Tensor] = {**model.state_dict(), **dict(model.named_buffers())}
    for name, value in sorted(tensors.items()):
        if value.device.type == "meta":  # accelerate keeps it in main memory
            value = load_offloaded_parameter(model, name)
        whole.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode() + _sums(value.detach()))
    return whole.hexdigest()[:32]


def _sums(value: torch.Tensor) -> bytes:
    """The sums of all rows of a tensor's bytes. Zeros fill the last word."""
    flat = value.contiguous().flatten().view(torch.uint8)
    if flat.storage_offset() % 4 or len(flat) % 4:
        flat = torch.nn.functional.pad(flat, (0, -len(flat) % 4)).clone()
    words, keys = flat.view(torch.int32), _keys(flat.device)
    whole = len(words) // ROW * ROW
    at_once = ROWS[flat.device.type]
    products = torch.empty(at_once, ROW, dtype=torch.int64, device=flat.device)  # one memory for all steps
    parts = [
        torch.mul(rows, keys, out=products[: len(rows)]).sum(1)
        for rows in words[:whole].view(-1, ROW).split(at_once)
    ]
    parts.append((words[whole:] * keys[: len(words) - whole]).sum(0, keepdim=True))
    return torch.cat(parts).cpu().numpy().tobytes()


@functools.cache
def _keys(device: torch.device) -> torch.Tensor:
    """ROW fixed random numbers of 64 bits."""
    drawn = hashlib.shake_256(b"crossdiff").digest(8 * ROW)
    return torch.from_numpy(np.frombuffer(drawn, "<i8").copy()).to(device)
