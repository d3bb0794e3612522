"""Where to compute, and how precisely."""

import ctypes
import math

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bfloat16(where: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (GPU, AMX, AVX-512 BF16); elsewhere float32 is the faster."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def is_synchronous(where: torch.device) -> bool:
    """Whether asking the device for a number costs nothing: a CPU has it at hand, a GPU must first do all work that is queued."""
    return where.type == "cpu"


def to_device(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """A ``tensor`` on the device. A GPU is not waited for: a copy from the host is queued, and its source kept until it was made."""
    if is_synchronous(where) or not is_synchronous(tensor.device):
        return tensor.to(where)
    return tensor.pin_memory().to(where, non_blocking=True)


def usable_memory(where: torch.device) -> float:
    """Bytes of a GPU that this process holds or may still take; no bound for a CPU, whose memory others give out."""
    if where.type == "cpu":
        return math.inf
    return torch.cuda.mem_get_info(where)[0] + torch.cuda.memory_reserved(where)


def fast_dtype() -> torch.dtype:
    """bfloat16 where it is native, else float32."""
    return torch.bfloat16 if multiplies_bfloat16(device()) else torch.float32


def keep_freed_memory() -> None:
    """Keep large temporaries in the process when they are freed, where the C library can (glibc): elsewhere each goes back to the kernel.

    For loops over temporaries of equal sizes, in which page faults are a good part of the time; others would only grow.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
            libc.mallopt(option, value)
