"""The device to compute on, the precision that it is fast at, and copies to and from it."""

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
SECONDS = 20  # the longest wait for nvidia-smi
HIDDEN = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU
# Release of CUDA -> oldest driver that runs programs built for it; docs.nvidia.com/deploy/cuda-compatibility
OLDEST_DRIVERS = {13: 580, 12: 525, 11: 450}
OLDER_BUILD, OLDER_CUDA = "cu126", 12  # the build of torch for older drivers and cards
MEMORY = "CROSSDIFF_GPU_MEMORY"  # GB; the workflow sets it from gpus.memory
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def device() -> torch.device:
    """The GPU if there is one, else the CPU. From then on, the process takes at most ``memory_limit`` of it.

    Raises UserError for a GPU that torch can't use, unless ``device: cpu`` or the cluster hides it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return torch.device("cpu")
    if (reason := unusable()) is not None:
        raise UserError(reason)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if (limit := memory_limit()) < math.inf:
        for number in range(torch.cuda.device_count()):
            whole = torch.cuda.get_device_properties(number).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), number)
    return torch.device("cuda")


def memory_limit() -> float:
    """Bytes of each GPU that a job may take (``gpus.memory``). Infinite where nothing is set."""
    return float(os.environ.get(MEMORY) or math.inf) * 1e9


def unusable() -> str | None:
    """Say why torch can't use this machine's NVIDIA GPU, and what to do.

    None if torch can use it, or if there is no GPU.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return None
    if torch.cuda.is_available() and (
        torch.version.hip or _runs_on(torch.cuda.get_arch_list(), *torch.cuda.get_device_capability())
    ):
        return None
    torch_is, version = f"torch {torch.__version__}", driver()
    branch = int(version.split(".")[0]) if version else math.inf
    release = torch.__version__.split("+")[0]
    index = f"https://download.pytorch.org/whl/{OLDER_BUILD}"
    another = f"pip install torch=={release}+{OLDER_BUILD} --index-url {index}"
    if branch < OLDEST_DRIVERS[OLDER_CUDA]:
        another = f"install driver {OLDEST_DRIVERS[OLDER_CUDA]} or newer"
    if torch.cuda.is_available():
        (major, minor), built_for = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        found = f"a {torch.cuda.get_device_name()} (sm_{major}{minor})"
        but = f"{torch_is} is built for {', '.join(built_for)}"
    elif not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    elif torch.version.cuda is None:
        found, but = "a GPU", f"{torch_is} is built without CUDA"
    elif branch < (needed := OLDEST_DRIVERS.get(int(torch.version.cuda.split(".")[0]), 0)):
        found = f"a GPU with driver {version}"
        but = f"{torch_is} is built for CUDA {torch.version.cuda}, which needs driver {needed} or newer"
    else:
        found, but = "a GPU", f"{torch_is} can't use it: {_complaint()}"
        another = "fix that"
    return f"device: found {found}, but {but}; {another}, or set device: cpu"


def _complaint() -> str:
    """The reason that CUDA gives for finding no device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it sees no device" + ("" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}")


def driver() -> str | None:
    """The version of NVIDIA's driver, or None if neither the kernel nor nvidia-smi tells it."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", DRIVER.read_text())
        return found[1] if found else None
    except OSError:
        pass
    try:
        question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(question, capture_output=True, text=True, timeout=SECONDS, check=True)
        versions = answer.stdout.split()
        return versions[0] if versions else None
    except (OSError, subprocess.SubprocessError):
        return None


def _runs_on(built_for: list[str], major: int, minor: int) -> bool:
    """Whether code built for these architectures runs on a card of compute capability ``major.minor``.

    Code for sm_XY runs on cards of the same X and at least Y. Code for compute_XY is translated for newer
    cards.
    """
    for name in built_for:
        if architecture := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]*", name):
            kind, x, y = architecture.groups()
            if (int(x), int(y)) <= (major, minor) and (kind == "compute" or int(x) == major):
                return True
    return False


def multiplies_bfloat16(where: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (GPU, AMX, AVX-512 BF16).

    Where it does not, float32 is faster.
    """
    if where.type == "cuda":
        return _gpu_multiplies_bfloat16(where.index)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@cache
def _gpu_multiplies_bfloat16(index: int | None) -> bool:
    """Whether a GPU multiplies bfloat16 natively. Some GPUs (T4) emulate it, which is slower than float32.

    The answer is kept, so a GPU that does not is logged once.
    """
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    if not native:
        name = torch.cuda.get_device_name(index)
        log.warning("%s does not multiply bfloat16 natively; matrices are multiplied in float32", name)
    return native


def is_synchronous(where: torch.device) -> bool:
    """Whether reading a number from the device costs nothing.

    True for a CPU. A GPU must first finish all work in its queue.
    """
    return where.type == "cpu"


def to_device(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """Copy a ``tensor`` to the device, without waiting for a GPU.

    A copy from the host to a GPU is queued. Its source stays in memory until the copy is made.
    """
    if is_synchronous(where) or not is_synchronous(tensor.device):
        return tensor.to(where)
    return tensor.pin_memory().to(where, non_blocking=True)


def usable_memory(where: torch.device) -> float:
    """Bytes of a GPU's memory that this process holds or may still take.

    Infinite for a CPU: its memory is not divided here.
    """
    if where.type == "cpu":
        return math.inf
    return min(memory_limit(), torch.cuda.mem_get_info(where)[0] + torch.cuda.memory_reserved(where))


def room(where: torch.device) -> float:
    """Bytes of a GPU's memory that this process may still fill. Infinite for a CPU."""
    return usable_memory(where) - (0 if where.type == "cpu" else torch.cuda.memory_allocated(where))


class ToHost:
    """Copy tensors to the host while a GPU goes on computing.

    The GPU makes the copies on a separate stream, into pinned memory.
    """

    def __init__(self, where: torch.device) -> None:
        self._stream = None if is_synchronous(where) else torch.cuda.Stream(where)

    def __call__(self, *tensors: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
        """Queue the copies, and return a function that waits for them and returns them.

        The function may be called in any thread.
        """
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
    """The faster type for matrix products: bfloat16 where the device has it natively, else float32."""
    return torch.bfloat16 if multiplies_bfloat16(device()) else torch.float32


def keep_freed_memory() -> None:
    """Keep freed memory in this process instead of returning it to the kernel.

    Works with glibc, and does nothing elsewhere. Meant for loops over large temporaries of equal sizes, where
    page faults take a good part of the time. Other programs would only need more memory.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
            libc.mallopt(option, value)
