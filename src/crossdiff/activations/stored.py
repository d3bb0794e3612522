"""Activations that others stored, in the layout of the paper's authors (docs/exchange.md).

A store is a folder ``layer_N_out``: rows of activations in ``shard_I.memmap``, their shape and type in
``shard_I.meta``, and ``config.json``. The ids of all rows are in ``tokens.pt``. Which rows are one sequence
stands in ``sequence_ranges.pt``, or each sequence begins with one and the same token.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.cache import cache_writer
from crossdiff.config.stores import ranges_file, tokens_file
from crossdiff.errors import UserError, first_line
from crossdiff.models.forward import run_to_layer
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.replacements import as_read, check_ids
from crossdiff.provenance.hashing import stamp
from crossdiff.provenance.records import read_record
from crossdiff.provenance.storage import read_json
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

# Name of a type in a .meta file -> the type of the values, and the one that the file holds them as.
TYPES: dict[str, tuple[torch.dtype, type[np.generic]]] = {
    "float32": (torch.float32, np.float32),
    "float16": (torch.float16, np.float16),
    "bfloat16": (torch.bfloat16, np.int16),
}
# What config.json may say, and why another value is refused.
ALLOWED = {
    "shuffle_shards": (False, "their rows no longer match the token ids"),
    "store_tokens": (True, "nothing tells which text a row belongs to"),
    "io": ("out", "activations are outputs of a block"),
}
PROVED, PROVED_TOKENS = 8, 64  # sequences of a shard that are compared with the model, and tokens of each
CLOSE = 0.05  # relative difference that other precision and kernels explain
LACKING = 0.01  # share of a shard's sequences that a store may lack: the model runs on these


class Store(NamedTuple):
    """A store whose files were checked."""

    folder: Path
    dtype: str  # a key of TYPES
    rows: list[int]  # of each shard
    d_model: int

    @classmethod
    def open(cls, folder: str | Path, described: Mapping[str, Any]) -> "Store":
        """The store in ``folder``, as ``describe`` found it."""
        return cls(Path(folder), described["dtype"], described["rows"], described["d_model"])

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` (exclusive), as (rows, d_model) in the store's type."""
        dtype, held = TYPES[self.dtype]
        parts, first = [], 0
        for number, rows in enumerate(self.rows):
            if start < first + rows and stop > first:
                path, shape = self.folder / f"shard_{number}.memmap", (rows, self.d_model)
                values = np.memmap(path, held, "r", shape=shape)[max(0, start - first) : stop - first]
                parts.append(torch.from_numpy(np.array(values)).view(dtype))
            first += rows
        return torch.cat(parts)


def describe(folder: str | Path, d_model: int) -> dict[str, Any]:
    """The shape and type of a store for a model of width ``d_model``, once its files agree.

    Gives ``dtype``, ``d_model``, ``rows`` of each shard, and the number of ``sequences``, which is None if
    there is no ``sequence_ranges.pt``. Raises UserError for files that disagree, and for a store whose rows
    were shuffled or whose token ids are missing.
    """
    folder = Path(folder)
    config = _read_config(folder, d_model)
    metas = [_read_meta(folder / f"shard_{number}.meta", d_model) for number in range(config["shard_count"])]
    if len(set(dtypes := [dtype for dtype, _ in metas])) != 1:
        raise UserError(f"{folder}: found shards of the types {', '.join(dtypes)}, allowed: one type")
    rows, ids = [number for _, number in metas], tokens_of(folder)
    if not sum(rows) == len(ids) == config["total_size"]:
        found = f"{sum(rows):,} rows, {len(ids):,} ids in tokens.pt, total_size {config['total_size']:,}"
        raise UserError(f"{folder}: found {found}, allowed: three equal numbers; its collection did not end")
    ranges = _ranges(folder, len(ids))
    sequences = None if ranges is None else len(ranges) - 1
    return {"dtype": dtypes[0], "d_model": d_model, "rows": rows, "sequences": sequences}


def _read_config(folder: Path, d_model: int) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path)
    numbers = {
        key: config.get(key) if isinstance(config, dict) else None
        for key in ("d_model", "shard_count", "total_size")
    }
    if wrong := [key for key, number in numbers.items() if type(number) is not int or number < 1]:
        raise UserError(f"{path}: {wrong[0]}: found {numbers[wrong[0]]!r}, allowed: a number from 1 on")
    for key, (allowed, why) in ALLOWED.items():
        if config.get(key, allowed) != allowed:
            told = f"found {config[key]!r}, allowed: {allowed!r}, because otherwise {why}"
            raise UserError(f"{path}: {key}: {told}; leave this store out of the config and harvest")
    if config["d_model"] != d_model:
        raise UserError(f"{path}: d_model: found {config['d_model']}, allowed: {d_model}, the model's width")
    return config


def _read_meta(path: Path, d_model: int) -> tuple[str, int]:
    """The type and the number of rows of a shard."""
    meta = read_json(path)
    dtype = str(meta.get("dtype", "float32")).removeprefix("torch.") if isinstance(meta, dict) else ""
    if dtype not in TYPES:
        raise UserError(f"{path}: dtype: found {dtype!r}, allowed: {', '.join(TYPES)}")
    shape = meta.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and shape[0] > 0 and shape[1] == d_model):
        raise UserError(f"{path}: shape: found {shape}, allowed: [rows, {d_model}]")
    memmap = path.with_suffix(".memmap")
    size = memmap.stat().st_size if memmap.exists() else 0
    if size != (needed := shape[0] * d_model * np.dtype(TYPES[dtype][1]).itemsize):
        raise UserError(f"{memmap}: found {size:,} bytes, allowed: {needed:,} ({path.name}); copy it again")
    return dtype, shape[0]


def tokens_of(folder: Path) -> np.ndarray:
    """The token id of every row of a store, (rows,) int32. Raises UserError for another file."""
    return _load(tokens_file(folder)).astype(np.int32)


def _load(path: Path) -> np.ndarray:
    """A list of numbers, (n,) int64."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch has no class of its own for damaged files
        raise UserError(f"{path}: can't be read as a tensor ({first_line(error)})") from error
    if not isinstance(found, Tensor) or found.dim() != 1 or found.is_floating_point() or not len(found):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"{path}: found {what}, allowed: a tensor of whole numbers with one axis")
    return found.long().numpy()


def _ranges(folder: Path, rows: int) -> np.ndarray | None:
    """The first row of every sequence, and ``rows`` after the last, or None if there is no such file."""
    path = ranges_file(folder)
    if not path.exists():
        return None
    ranges = _load(path)
    if ranges[0] != 0 or ranges[-1] != rows or (np.diff(ranges) <= 0).any():
        found = f"{ranges[0]} to {ranges[-1]}"
        raise UserError(f"{path}: found {found}, allowed: the rows where sequences begin, from 0 to {rows}")
    return ranges


def bounds_of(folder: Path, ids: np.ndarray, first: np.ndarray, key: str) -> np.ndarray:
    """The first row of every sequence of a store with these token ``ids``, and their number after the last.

    ``first`` are the first ids of the sequences that are looked for. They tell where a sequence begins if
    there is no ``sequence_ranges.pt``. Raises UserError, with the ``key``, if they differ, or if the store
    does not begin with them.
    """
    ranges = _ranges(folder, len(ids))
    if ranges is not None:
        return ranges
    kinds = np.unique(first)
    if len(kinds) > 1:
        raise UserError(
            f"{key}: found no sequence_ranges.pt next to {tokens_file(folder)}, and {len(kinds)} different "
            "first tokens of sequences; where a sequence begins can't be told, so harvest"
        )
    if ids[0] != kinds[0]:
        raise UserError(
            f"{key}: found a store that begins with token {ids[0]}, allowed: {kinds[0]}, with which this "
            "run's sequences begin; another tokenizer, or first tokens were left out, so harvest"
        )
    return np.append(np.flatnonzero(ids == kinds[0]), len(ids))


def find_sequences(ids: np.ndarray, starts: np.ndarray, stored: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """For each sequence of ``ids`` the row of the store ``stored`` where it begins, or -1, (sequences,).

    Sequences begin at ``starts``, and those of the store at ``bounds``, which also has the end. A stored
    sequence that is longer serves, too, for one that was cut: the longest ones, and the last of a shard.
    """
    stops = np.append(starts[1:], len(ids))
    lengths = stops - starts
    wanted: dict[bytes, list[int]] = {}
    for number, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        wanted.setdefault(ids[start:stop].tobytes(), []).append(number)
    cut = {int(lengths.max()), int(lengths[-1])}
    found = np.full(len(starts), -1)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for length in {min(stop - start, longest) for longest in (stop - start, *cut)}:
            if numbers := wanted.pop(stored[start : start + length].tobytes(), None):
                found[numbers] = start
        if not wanted:
            break
    return found


def read_stored(
    model: PreTrainedModel, shard: Shard, store: Store, cache: str | Path, layer: int, key: str
) -> None:
    """Write the cache of a shard at ``layer`` from a store, once it is proved that it is of ``model``.

    The model runs on sequences that the store lacks. ``key`` names the store in errors. Raises UserError for
    more of them than LACKING, for activations that are not the model's, and for NaN or infinite ones.
    """
    check_ids(model, shard.token)
    starts, stops = shard.sequence_bounds()
    # A base with replaced tokens was stored with the ids that it read.
    ids, stored = as_read(model, shard.token), as_read(model, tokens_of(store.folder))
    bounds = bounds_of(store.folder, stored, ids[starts], key)
    rows = find_sequences(ids, starts, stored, bounds)
    lacking = rows < 0
    told = f"{lacking.sum():,} of {len(rows):,} sequences are not in the store"
    if lacking.mean() > LACKING:
        first = starts[lacking][0]
        raise UserError(
            f"{key}: {told}, the first in row {first} of the token shard (document "
            f"{shard.document[first]}), allowed: {LACKING:.0%}, on which the model runs; "
            "take the texts, tokens.context, `long` and chat template that were stored, or fewer tokens"
        )
    log.info("%s; the model runs on these", told)
    found = ~lacking
    prove(model, shard.token, (starts[found], stops[found]), store, rows[found], layer, key)
    with cache_writer(cache, len(ids), store.d_model, layer, shard.token) as writer:
        for start, stop, row in zip(starts.tolist(), stops.tolist(), rows.tolist(), strict=True):
            if row < 0:
                block = own_activations(model, shard.token[start:stop], layer)
            else:
                block = store.read(row, row + stop - start)
            if not (finite := block.isfinite().all(dim=1)).all():
                bad = int(finite.int().argmin())
                where = f"{start + bad} of the token shard" if row < 0 else f"{row + bad} of the store"
                raise UserError(f"{key}: row {where} is NaN or infinite; leave it out and harvest")
            writer.write(np.arange(start, stop), block.to(torch.bfloat16))


def own_activations(model: PreTrainedModel, ids: np.ndarray, layer: int) -> Tensor:
    """The model's activations of one sequence, (tokens, d_model) on the CPU. It replaces tokens itself."""
    read = torch.from_numpy(ids).long()[None].to(device_of_inputs(model))
    return run_to_layer(model, read, layer)[0].cpu()


def prove(
    model: PreTrainedModel,
    ids: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    store: Store,
    rows: np.ndarray,
    layer: int,
    key: str,
) -> float:
    """Run the model on some sequences of a shard, and compare. Gives the largest relative difference.

    It is the largest of PROVED sequences, and of each the median of its first PROVED_TOKENS tokens. Sequences
    lie between ``bounds`` (first row, row after the last) in ``ids``, and begin at ``rows`` of the store.
    Raises UserError, with the ``key``, if it is above CLOSE.
    """
    most = 0.0
    for number in np.unique(np.linspace(0, len(rows) - 1, PROVED).round().astype(int)):
        start, length = bounds[0][number], min(PROVED_TOKENS, bounds[1][number] - bounds[0][number])
        own = own_activations(model, ids[start : start + length], layer).float()
        theirs = store.read(rows[number], rows[number] + length).float()
        differs = float(((own - theirs).norm(dim=1) / own.norm(dim=1)).median())
        if not differs <= CLOSE:  # NaN is refused, too
            raise UserError(
                f"{key}: differs from the model's own activations by {differs:.3g}, allowed: {CLOSE} "
                f"(relative, median of tokens from row {rows[number]} of the store on); "
                "another model, layer or precision was stored"
            )
        most = max(most, differs)
    log.info("The store differs from the model's own activations by at most %.3g (relative)", most)
    return most


def check_unchanged(described: str | Path) -> None:
    """Raise UserError if a file of a store changed since ``described`` was made of it.

    Sizes and times are compared, because hashing a store takes hours.
    """
    for entry in read_record(described).inputs:
        if entry.name == "files" and _told(stamp(entry.path)) != _told(entry.stamp):
            raise UserError(f"{entry.path}: changed since it was checked; remove {described} and run again")


def _told(stamped: str | None) -> list[str]:
    """The size and modification time in a stamp."""
    return (stamped or "").split(".")[:2]
