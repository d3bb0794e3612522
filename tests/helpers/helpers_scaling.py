"""Latent scaling of plain arrays, and a crosscoder with known ratios."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from helpers_activations import LAYER
from helpers_codes import encoded
from torch import Tensor

from crossdiff.config import Bootstrap
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents.scaling import latent_scaling as scale_blocks

WIDTH, LATENTS, TOKENS = 6, 10, 200
MODELS = ("base", "chat")


def latent_scaling(crosscoder: Crosscoder, parts: Iterable[Tensor], **bootstrap: int) -> pd.DataFrame:
    """Scale latents on raw activations, in documents of ten tokens that are counted on over all parts."""
    blocks = encoded(crosscoder, parts)
    tokens = sum(len(block.x) for block in blocks)
    return scale_blocks(crosscoder, blocks, tokens, Bootstrap(**{"blocks": 10, "samples": 20} | bootstrap))


def betas(table: pd.DataFrame, target: str) -> np.ndarray:
    return np.stack([table[f"beta_{target}_{model}"] for model in MODELS])


def orthogonal(scales: Tensor) -> Crosscoder:
    """Latent j reads unit vector j of the chat model. Base decoders are ``scales`` times chat decoders."""
    crosscoder = Crosscoder(WIDTH, WIDTH, LAYER)
    with torch.no_grad():
        crosscoder.encoder[:, 1] = torch.eye(WIDTH)
        crosscoder.decoder[:, 1] = torch.eye(WIDTH)
        crosscoder.decoder[:, 0] = scales[:, None] * torch.eye(WIDTH)
    return crosscoder.requires_grad_(False)


def sparse_codes() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(TOKENS, WIDTH, generator=generator) * (
        torch.rand(TOKENS, WIDTH, generator=generator) < 0.3
    )
