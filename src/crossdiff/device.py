"""Where to compute, and how precisely."""

import ctypes
import logging
import math
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from crossdiff.errors import UserError, first_line

log = logging.getLogger(__name__)

DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")
SECONDS = 20  # to wait for nvidia-smi
HIDDEN = ("", "-1", "NoDevFiles")  # of CUDA_VISIBLE_DEVICES: no GPU is to be seen
OLDEST_DRIVERS = {
    13: 580,
    12: 525,
    11: 450,
}  # that run programs built for a release of CUDA; docs.nvidia.com/deploy/cuda-compatibility
OLDER_BUILD, OLDER_CUDA = "cu126", 12  # of torch, for older drivers and cards
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def device() -> torch.device:
    """The GPU if there is one. Raises UserError for one that torch can't use, unless ``device: cpu`` or the cluster hides it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return torch.device("cpu")
    if (reason := unusable()) is not None:
        raise UserError(reason)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unusable() -> str | None:
    """Why torch can't use this machine's NVIDIA GPU, and what to do; None where it can, and where there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return None
    if torch.cuda.is_available() and (
        torch.version.hip or _runs_on(torch.cuda.get_arch_list(), *torch.cuda.get_device_capability())
    ):
        return None
    torch_is, version = f"torch {torch.__version__}", driver()
    branch = int(version.split(".")[0]) if version else math.inf  # of the driver
    release = torch.__version__.split("+")[0]
    another = f"pip install torch=={release}+{OLDER_BUILD} --index-url https://download.pytorch.org/whl/{OLDER_BUILD}"
    if branch < OLDEST_DRIVERS[OLDER_CUDA]:
        another = f"install driver {OLDEST_DRIVERS[OLDER_CUDA]} or newer"
    if torch.cuda.is_available():
        (major, minor), built_for = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        found, but = (
            f"a {torch.cuda.get_device_name()} (sm_{major}{minor})",
            f"{torch_is} is built for {', '.join(built_for)}",
        )
    elif not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    elif torch.version.cuda is None:
        found, but = "a GPU", f"{torch_is} is built without CUDA"
    elif branch < (needed := OLDEST_DRIVERS.get(int(torch.version.cuda.split(".")[0]), 0)):
        found = f"a GPU with driver {version}"
        but = f"{torch_is} is built for CUDA {torch.version.cuda}, which needs driver {needed} or newer"
    else:
        found, but = "a GPU", f"{torch_is} can't use it: {_complaint()}"
        another = "mend that"
    return f"device: found {found}, but {but}; {another}, or set device: cpu"


def _complaint() -> str:
    """What CUDA says where it finds no device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it sees no device" + ("" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}")


def driver() -> str | None:
    """The version of NVIDIA's driver; None where neither the kernel nor nvidia-smi says it."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", DRIVER.read_text())
        return found[1] if found else None
    except OSError:
        pass
    try:
        question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(
            question, capture_output=True, text=True, timeout=SECONDS, check=True
        ).stdout.split()
        return answer[0] if answer else None
    except (OSError, subprocess.SubprocessError):
        return None


def _runs_on(built_for: list[str], major: int, minor: int) -> bool:
    """Code for sm_XY runs on cards of the same X and at least Y; that for compute_XY is translated for any newer card."""
    for kind, x, y in (re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]*", name).groups() for name in built_for):
        if (int(x), int(y)) <= (major, minor) and (kind == "compute" or int(x) == major):
            return True
    return False


def multiplies_bfloat16(where: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (GPU, AMX, AVX-512 BF16); elsewhere float32 is the faster."""
    if where.type == "cuda":
        return _gpu_multiplies_bfloat16(where.index)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@cache
def _gpu_multiplies_bfloat16(index: int | None) -> bool:
    """Asked once; one line says where a GPU can't. Some GPUs emulate bfloat16 (T4), which is slower than float32."""
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    if not native:
        log.warning(
            "%s does not multiply bfloat16: products are made in float32", torch.cuda.get_device_name(index)
        )
    return native


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
