"""Activations as the paper's authors store them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def write_store(
    folder: Path,
    sequences: Sequence[np.ndarray],
    values: Tensor,
    dtype: torch.dtype = torch.float32,
    rows: int = 20,
    ranges: bool = False,
    **config: Any,
) -> Path:
    """Write the ids of ``sequences`` and ``values`` (tokens, d_model), in shards of ``rows`` rows; give
    ``folder``. ``config`` replaces values of config.json.
    """
    folder.mkdir(parents=True)
    parts = values.to(dtype).split(rows)
    for number, part in enumerate(parts):
        held = part.view(torch.int16) if dtype is torch.bfloat16 else part
        held.contiguous().numpy().tofile(folder / f"shard_{number}.memmap")
        meta = {"shape": list(part.shape), "dtype": str(dtype)}
        (folder / f"shard_{number}.meta").write_text(json.dumps(meta))
    told = {
        "batch_size": 64,
        "context_len": 1024,
        "shard_size": rows,
        "d_model": values.shape[1],
        "shuffle_shards": False,
        "io": "out",
        "total_size": len(values),
        "shard_count": len(parts),
        "store_tokens": True,
        "store_sequence_ranges": ranges,
    }
    (folder / "config.json").write_text(json.dumps(told | config))
    torch.save(torch.from_numpy(np.concatenate(sequences)).long(), folder.parent / "tokens.pt")
    if ranges:
        starts = np.cumsum([0, *map(len, sequences)])
        torch.save(torch.from_numpy(starts).long(), folder.parent / "sequence_ranges.pt")
    return folder
