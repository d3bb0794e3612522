"""A latent cache for Delphi (EleutherAI), which explains and scores latents with language models.

Delphi reads token windows of one length. So the training text is laid end to end and cut into windows of
``tokens.context`` tokens (docs/exchange.md). A window may hold the end of one text and the start of another.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.errors import UserError
from crossdiff.exchange.training import Training

ENTRIES_AT_ONCE = 100_000_000  # of a file; some 5 GB of memory
SMALL = np.iinfo(np.uint16).max


def write_delphi(training: Training, folder: Path) -> str:
    """Write ``latents/{module}/{first}_{last}.safetensors`` and its config.json, as Delphi's cache has them.

    Tensors of a file: locations (entries, 3) window, token and latent less the first; activations (entries,)
    float16; tokens (windows, length). The module is named after layer, crosscoder and seed. Returns a
    sentence on what was written. Raises UserError for activations that float16 can't hold, and for too little
    text.
    """
    path, shards = training.active()
    length = int(training.recorded["tokens.context"])
    first_row = np.cumsum([0, *(len(shard.token) for shard in shards)])
    windows = int(first_row[-1] // length)
    if windows == 0:
        raise UserError(f"{path}: found {first_row[-1]:,} tokens, too few for a window of {length}")
    tokens = np.concatenate([shard.token for shard in shards])[: windows * length].reshape(windows, length)
    _, layer, crosscoder, seed = training.name.split("/")
    module = f"{layer}.{crosscoder}.{seed}"
    home = folder / "latents" / module
    home.mkdir(parents=True)
    written, ranges = 0, _ranges(path, training.crosscoder.latents)
    for begin, end in ranges:
        place, latent, value = _entries(path, first_row, begin, end, windows * length)
        if len(value) and value.max() > np.finfo(np.float16).max:
            raise UserError(f"{path}: holds activations up to {value.max():g}, which float16 can't hold")
        kind = np.uint16 if max(windows, length, end - begin) <= SMALL else np.uint32
        locations = np.empty((len(place), 3), kind)
        locations[:, 0], locations[:, 1], locations[:, 2] = place // length, place % length, latent - begin
        tensors = {
            "locations": locations,
            "activations": value.astype(np.float16),
            "tokens": tokens.astype(np.int64),
        }
        save_file(tensors, home / f"{begin}_{end - 1}.safetensors", metadata=training.mark)
        written += len(value)
    config = {
        "dataset_repo": training.name,
        "dataset_split": "train",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 1,
        "ctx_len": length,
        "n_tokens": int(tokens.size),
        "n_splits": len(ranges),
        "model_name": training.loaded.names.chat if training.loaded.names else "",
    }
    (home / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return f"{written:,} activations in {windows:,} windows of {length} tokens, module {module}"


def _ranges(path: Path, latents: int) -> list[tuple[int, int]]:
    """Cut the latents into ranges, first and one past the last, of about ENTRIES_AT_ONCE entries each."""
    counts = np.zeros(latents, np.int64)
    for found in ActiveFile(path):
        counts += np.bincount(found.latent, minlength=latents)
    number = (np.cumsum(counts) - counts) // ENTRIES_AT_ONCE
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), latents], strict=True))


def _entries(
    path: Path, first_row: np.ndarray, begin: int, end: int, tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place in the joined text, latent and activation, each (entries,), latent by latent.

    Only of latents from ``begin`` to before ``end``, on the first ``tokens`` tokens. The file is read anew
    for each range of latents, so that all entries are never in memory at once.
    """
    parts = []
    for found in ActiveFile(path):
        place = np.repeat(found.rows, np.diff(found.bounds)) + first_row[found.shard]
        chosen = (found.latent >= begin) & (found.latent < end) & (place < tokens)
        parts.append((place[chosen], found.latent[chosen], found.value[chosen]))
    place, latent, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((place, latent))
    return place[order], latent[order], value[order]
