"""The NVIDIA GPUs of this machine that a run may use. Torch-free.

AMD's GPUs are not looked for (docs/several-gpus.md).
"""

import csv
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

ON_GPU = "on_gpu"  # resource of jobs that use GPUs, where there are any: how many
DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"
QUESTION = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
SECONDS = 20  # the longest wait for nvidia-smi
ALIKE = 0.5  # a card with less than this share of the largest card's memory gets no jobs: it drives a screen


class GPU(NamedTuple):
    """A GPU, by the name that CUDA_VISIBLE_DEVICES takes, and its memory in bytes (None if not known)."""

    name: str
    memory: float | None


def found(devices: Path = DEVICES) -> list[GPU]:
    """Return the GPUs that CUDA shows to a process of this run, in order.

    If the user has set CUDA_VISIBLE_DEVICES, they are those that it names, by the same names. Otherwise they
    have the names that nvidia-smi gives (UUIDs), or numbers if nvidia-smi does not answer.
    """
    files = sorted(str(file) for file in devices.glob("nvidia[0-9]*"))
    return list(_found(tuple(files), os.environ.get(VISIBLE)))


@cache
def _found(files: tuple[str, ...], visible: str | None) -> tuple[GPU, ...]:
    if not files:
        return ()
    cards = _asked()
    if visible is None:
        return tuple(GPU(uuid, memory) for _, uuid, memory in cards) or tuple(
            GPU(str(number), None) for number in range(len(files))
        )
    named = []
    for name in map(str.strip, visible.split(",")):
        if not name or name == "-1" or name == "NoDevFiles":
            break  # CUDA reads no further either
        named.append(name)
    return tuple(GPU(name, _memory(name, cards)) for name in dict.fromkeys(named))


def _memory(name: str, cards: list[tuple[str, str, float | None]]) -> float | None:
    """Memory of the GPU with this index or beginning of a UUID."""
    fitting = [memory for index, uuid, memory in cards if name == index or uuid.startswith(name)]
    return fitting[0] if fitting else None  # a part of a GPU (MIG) is not in this list


def _asked() -> list[tuple[str, str, float | None]]:
    """Return (index, UUID, bytes) of every GPU from nvidia-smi, or nothing if it does not answer."""
    try:
        answer = subprocess.run(QUESTION, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [row for row in csv.reader(answer.stdout.splitlines(), skipinitialspace=True) if len(row) == 3]
    return [(index, uuid, int(mib) * 2**20 if mib.isdecimal() else None) for index, uuid, mib in rows]


def usable(devices: Path = DEVICES) -> list[GPU]:
    """Return the GPUs that jobs are spread over: those found, without cards that are much smaller."""
    gpus = found(devices)
    largest = max((gpu.memory for gpu in gpus if gpu.memory is not None), default=0)
    return [gpu for gpu in gpus if gpu.memory is None or gpu.memory >= ALIKE * largest]


def card_bytes(devices: Path = DEVICES) -> float | None:
    """Return the memory of the smallest usable GPU in bytes, or None if one is not known or there is none."""
    memories = [gpu.memory for gpu in usable(devices)]
    known = [memory for memory in memories if memory is not None]
    return min(known) if known and len(known) == len(memories) else None
