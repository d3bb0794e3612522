"""Decide where a model goes: to one GPU, over several, or partly to main memory.

A model goes whole to the first GPU that has room for its weights and for the activations of a forward pass.
If none has, it is spread over all GPUs of the job. What lies outside its blocks (embeddings, final norm,
head) goes to the GPU with the most room. The blocks follow in order, none is split, and all GPUs give the
same share of their room. With ``gpus.offload``, the last blocks stay in main memory if the GPUs have no room
for them. Each of their layers comes to a GPU when it runs. accelerate moves weights and activations.

This is known before any weight is read (models/footprint.py).
"""

import gc
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_module

from crossdiff.device import device, memory_limit, room
from crossdiff.errors import UserError
from crossdiff.models.footprint import BYTES, Footprint, footprint_of, is_of_few_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

OFFLOAD = "CROSSDIFF_OFFLOAD"  # the workflow sets it from gpus.offload
MAIN_MEMORY = "cpu"  # as accelerate calls it
MOST_GPUS = 64  # that an error suggests
SHARES = range(1, 101)  # percent of a GPU's room

Places = dict[str, int | str]  # name of a module -> number of its GPU, or MAIN_MEMORY


def place(
    folder: str | Path, dtype: torch.dtype, devices: Sequence[torch.device] | None = None
) -> torch.device | Places:
    """Where the model in ``folder`` goes: one device, or a place for each of its parts.

    ``devices`` are those that it may use. Left out: all GPUs of the job, or the CPU if there is none. Raises
    UserError if they have no room for it, and says what would fit.
    """
    devices = devices or _visible()
    if devices[0].type == "cpu":
        return devices[0]
    needed = footprint_of(folder, dtype)
    gc.collect()  # accelerate's hooks keep a model that is no longer used in a cycle of references
    rooms = {where.index or 0: room(where) for where in devices}
    if max(rooms.values()) <= needed.activations:
        raise UserError(_no_activations(folder, needed, max(rooms.values())))
    asked = os.environ.get(OFFLOAD) == "1" and not is_of_few_bits(folder)
    places = spread(needed, rooms, _main_memory() if asked else 0)
    if places is None:
        raise UserError(_fits_nowhere(folder, needed, rooms, dtype))
    gpus = {where for where in places.values() if isinstance(where, int)}
    if gpus == set(places.values()) and len(gpus) == 1:
        return torch.device("cuda", *gpus)
    apart = sum(size for block, size in needed.blocks.items() if places[block] == MAIN_MEMORY)
    log.info(
        "%s: %s of weights on %d GPUs, %s of them wait in main memory",
        folder,
        _gb(needed.weights),
        len(gpus),
        _gb(apart),
    )
    return places


def _visible() -> list[torch.device]:
    """All GPUs of the job, or the CPU if there is none."""
    first = device()
    if first.type == "cpu":
        return [first]
    return [torch.device(first.type, number) for number in range(torch.cuda.device_count())]


def _main_memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def spread(needed: Footprint, rooms: Mapping[int, float], main_memory: float = 0) -> Places | None:
    """A place for each part of a model, or None if there is no room.

    ``rooms``: number of each GPU -> bytes that it may give, activations included. ``main_memory``: bytes that
    blocks may take of it.
    """
    free = {gpu: size - needed.activations for gpu, size in rooms.items() if size > needed.activations}
    for gpu, size in free.items():
        if needed.weights <= size:
            return dict.fromkeys((*needed.outside, *needed.blocks), gpu)
    order = sorted(free, key=lambda gpu: -free[gpu])  # equal ones stay in order
    if not order:
        return None
    for share in SHARES:
        if places := _filled(needed, [(gpu, share / 100 * free[gpu]) for gpu in order]):
            return places
    if not main_memory:
        return None
    streamed = max(needed.blocks.values())  # room for what comes from main memory, on whichever GPU
    return _filled(needed, [*((gpu, free[gpu] - streamed) for gpu in order), (MAIN_MEMORY, main_memory)])


def _filled(needed: Footprint, rooms: Sequence[tuple[int | str, float]]) -> Places | None:
    """Fill the places in order, each up to its bytes. What lies outside the blocks must fit the first one."""
    (where, left), *others = rooms
    left -= sum(needed.outside.values())
    if left < 0:
        return None
    places: Places = dict.fromkeys(needed.outside, where)
    for block, size in needed.blocks.items():
        while size > left:
            if not others:
                return None
            (where, left), *others = others
        places[block] = where
        left -= size
    return places


def _no_activations(folder: str | Path, needed: Footprint, largest: float) -> str:
    limit, what = memory_limit(), f"the activations of a forward pass of {folder} alone"
    lower = "lower activations.batch_tokens"
    if limit <= needed.activations:
        found = f"gpus.memory: found {limit / 1e9:g}, which leaves nothing for weights"
        return f"{found}: {what} need {_gb(needed.activations)}; raise it, or {lower}"
    return (
        f"GPU memory: {_gb(largest)} is free, and {what} need {_gb(needed.activations)}; free it, or {lower}"
    )


def _fits_nowhere(
    folder: str | Path, needed: Footprint, rooms: Mapping[int, float], dtype: torch.dtype
) -> str:
    """Say what a model needs, what there is, and every change with which it would fit."""
    sizes = [_gb(size) for size in rooms.values()]
    there = f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " and ".join(sizes)
    largest, fits = max(rooms.values()), []
    for number in range(len(rooms) + 1, MOST_GPUS + 1):
        if spread(needed, dict.fromkeys(range(number), largest)):
            fits.append(f"{number} x {_gb(largest)}")
            break
    few, asked = is_of_few_bits(folder), os.environ.get(OFFLOAD) == "1"
    for bits in () if few else BYTES:
        smaller = footprint_of(folder, dtype, bits)
        if spread(smaller, rooms):
            fits.append(f"bits: {bits} ({_gb(smaller.weights)})")
    if not few and asked:
        fits.append(f"more main memory than {_gb(_main_memory())}")
    elif not few and (places := spread(needed, rooms, _main_memory())):
        apart = sum(size for block, size in needed.blocks.items() if places[block] == MAIN_MEMORY)
        fits.append(f"gpus.offload: true ({_gb(apart)} in main memory)")
    if memory_limit() < math.inf:
        fits.append("a higher gpus.memory, if the GPUs have more")
    name = str(dtype).removeprefix("torch.")
    has = f"{folder}: needs {_gb(needed.weights)} in {name}, the job's GPUs have {there}"
    kept = f"and each keeps {_gb(needed.activations)} for activations"
    return f"{has}, {kept}; it would fit: {', or '.join(fits) or 'nothing like this machine'}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


@contextmanager
def undispatched(model: "PreTrainedModel") -> Iterator[None]:
    """Take accelerate's hooks off a model that lies partly in main memory. Afterwards they are put back.

    Inside, its weights lie where ``place`` said, and layers may be put around them.
    """
    places: Places = getattr(model, "hf_device_map", {})
    if MAIN_MEMORY not in places.values() or len(set(places.values())) == 1:
        yield  # hooks of modules that stay on one device don't mind
        return
    remove_hook_from_module(model, recurse=True)
    yield
    moved: Any = model
    dispatch_model(moved, places, skip_keys=moved._skip_keys_device_placement)
