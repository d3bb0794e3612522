"""Where to compute, and how precisely."""

import torch


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bfloat16(where: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (GPU, AMX, AVX-512 BF16); elsewhere float32 is the faster."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def fast_dtype() -> torch.dtype:
    """bfloat16 where it is native, else float32."""
    return torch.bfloat16 if multiplies_bfloat16(device()) else torch.float32
