"""Where to compute, and how precisely."""

import ctypes
from collections.abc import Callable

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
    """A host ``tensor`` on the device. A GPU is not waited for: the copy is queued, and its source kept until it was made."""
    return tensor.to(where) if is_synchronous(where) else tensor.pin_memory().to(where, non_blocking=True)


class ToHost:
    """Copies of tensors to the host. A GPU makes them on a stream of their own, into pinned memory, and computes on meanwhile."""

    def __init__(self, where: torch.device) -> None:
        self._stream = None if is_synchronous(where) else torch.cuda.Stream(where)

    def __call__(self, *tensors: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
        """Queue the copies. What it gives waits until they were made, in any thread, and gives them."""
        if self._stream is None:
            return lambda: list(tensors)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)
            made = self._stream.record_event(torch.cuda.Event(blocking=True))

        def landed() -> list[torch.Tensor]:
            made.synchronize()
            return copies

        return landed


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
