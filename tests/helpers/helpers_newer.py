"""The losses that came after the paper's two: small settings of each, and dense references in float64."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers_activations import random_crosscoder
from helpers_dense import LATENTS, WIDTH, Dense, assert_trains_like, batch
from torch import Tensor

from crossdiff.config import CrosscoderSettings, crosscoder_settings
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.base import Loss, Parts
from crossdiff.crosscoders.model import Crosscoder

SLOW_KERNELS = ["cpu", "device", pytest.param("kernels", marks=pytest.mark.slow)]  # paths of helpers_paths

COMMON = {"latents": LATENTS, "batch": 64, "tokens": 6400, "warmup_steps": 5, "precision": "float32"}
TOPK = {"k": 3, "threshold_start_step": 20}
EXCLUSIVE = {"exclusive": {"base": 0.125, "chat": 0.25}}  # of 24 latents: 3, 6, and 15 shared ones
DESIGNATED = {"designated": {"share": 0.375, "penalty": 0.2}}  # 9 and 15
OWN: dict[str, dict[str, Any]] = {
    "dedicated": TOPK | EXCLUSIVE,
    "dedicated_l1": {"l1_coefficient": 0.1} | EXCLUSIVE,
    "designated": TOPK | DESIGNATED,
    "designated_l1": {"l1_coefficient": 0.1} | DESIGNATED,
    "matryoshka": TOPK | {"prefixes": [0.25, 0.5]},
    "jumprelu": {"l0_coefficient": 0.05, "initial_l0": 6},
    "delta": TOPK | {"shared": 0.625, "delta_k": 2, "delta_coefficient": 0.7},  # 15 shared, 9 free
    "bridge": TOPK | {"coupling": -0.6, "squared_error": True},
    "difference": TOPK,
}


def newer_settings(loss: str, **changes: Any) -> CrosscoderSettings:
    """Settings of one of these losses, for 24 latents."""
    return crosscoder_settings({"loss": loss} | COMMON | OWN[loss] | changes)


def new(loss: str, **changes: Any) -> tuple[Loss, Crosscoder]:
    """One of these losses with a random crosscoder."""
    crosscoder = random_crosscoder(
        WIDTH, LATENTS, code_normalisation=changes.get("code_normalisation", "crosscoder")
    )
    return new_loss(crosscoder, newer_settings(loss, **changes)), crosscoder


def with_weights(twin: Crosscoder, encoder: Tensor, decoder: Tensor) -> Any:
    """A stand-in for ``twin`` with other matrices. Gradients reach the twin through them."""
    return SimpleNamespace(
        encoder=encoder, decoder=decoder, encoder_bias=twin.encoder_bias, decoder_bias=twin.decoder_bias
    )


def assert_trains_like_float64(
    loss: Loss,
    crosscoder: Crosscoder,
    reference: Callable[[Any, Tensor, int], Dense],
    data: Callable[[int], Tensor] = batch,
) -> list[Parts]:
    return assert_trains_like(loss, crosscoder, reference, dtype=torch.float64, data=data)
