"""The activation cache: one HDF5 file per shard and model, one row per token of the token shard.

bfloat16 values are stored as their uint16 bit patterns, byte-shuffled, compressed with zstd and checksummed, in chunks of CHUNK_ROWS.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import h5py
import hdf5plugin
import numpy as np
import torch
from torch import Tensor

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, record_mark

FORMAT = "crossdiff activations 1"
CHUNK_ROWS = 2048


def tokens_digest(ids: np.ndarray) -> str:
    """Identity of a shard's token ids: two caches with one digest pair up row by row."""
    return hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()


def write_cache(path: str | Path, activations: Tensor, layer: int, ids: np.ndarray) -> None:
    """Write ``activations`` (tokens, d_model) bfloat16 with the L2 norm of each row. ``ids`` are the shard's tokens."""
    rows, d_model = activations.shape
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(format=FORMAT, layer=layer, d_model=d_model, dtype="bfloat16", tokens_sha256=tokens_digest(ids), **record_mark())
        norms = torch.cat([block.float().norm(dim=1) for block in activations.split(CHUNK_ROWS)])
        file.create_dataset("norm", data=norms.numpy(), fletcher32=True)
        dataset = file.create_dataset(
            "activations",
            (rows, d_model),
            np.uint16,
            chunks=(min(rows, CHUNK_ROWS), d_model),
            shuffle=True,
            fletcher32=True,
            compression=hdf5plugin.Zstd(clevel=3),
        )
        for start in range(0, rows, CHUNK_ROWS):
            block = activations[start : start + CHUNK_ROWS].contiguous()
            dataset[start : start + len(block)] = block.view(torch.uint16).numpy()


class Header(NamedTuple):
    """What a cache says of itself."""

    layer: int
    d_model: int
    rows: int
    tokens_sha256: str
    norm: np.ndarray  # (rows,) float32


def _open(path: str | Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: not a whole HDF5 file ({first_line(error)})") from error
    found = file.attrs.get("format")
    if found != FORMAT:
        file.close()
        raise UserError(f"{path}: not an activation cache (format {found!r}, allowed: {FORMAT!r})")
    return file


def read_header(path: str | Path) -> Header:
    """Everything but the activations. Raises UserError for a truncated or foreign file."""
    with _open(path) as file:
        rows, d_model = file["activations"].shape
        try:
            norms = file["norm"][:]
        except OSError as error:
            raise UserError(f"{path}: its norms are damaged ({first_line(error)})") from error
        return Header(int(file.attrs["layer"]), d_model, rows, str(file.attrs["tokens_sha256"]), norms)


def read_rows(path: str | Path, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` as (rows, d_model) bfloat16. Raises UserError when their checksum is wrong."""
    with _open(path) as file:
        try:
            block = file["activations"][start:stop]
        except OSError as error:
            raise UserError(f"{path}: rows {start} to {stop} are damaged ({first_line(error)})") from error
    return torch.from_numpy(block).view(torch.bfloat16)
