"""Latent scaling (paper.md c): how much of latent j does each model need?

beta_j^m minimises sum_i || beta f_j(x_i) d_j^chat - y_i^m ||^2, so beta_j^m = sum_i f_ij <d_j^chat, y_i^m> / (||d_j^chat||^2 sum_i f_ij^2).
nu_j = beta_j^base / beta_j^chat. Targets y^m, on the crosscoder's scale:

- reconstruction: xhat^m, latent j and bias included;
- error: x^m - xhat^m + f_j d_j^m, the error with latent j's own part added back;
- activation: x^m;
- activation_no_bias: x^m - decoder bias.
"""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from crossdiff.activations.pairs import MODELS
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, rows_per_latent

TARGETS = ("reconstruction", "error", "activation", "activation_no_bias")


class ScalingSums:
    """The sums behind every beta, gathered over blocks of tokens in one pass; only active entries are touched.

    The leave-one-out term needs no extra pass: sum_i f_ij <d_j^chat, f_ij d_j^m> = <d_j^chat, d_j^m> sum_i f_ij^2.
    """

    def __init__(self, crosscoder: Crosscoder) -> None:
        self.crosscoder = crosscoder
        latents, device = crosscoder.latents, crosscoder.decoder.device
        self.count = torch.zeros(latents, dtype=torch.long, device=device)
        self.sum = torch.zeros(latents, dtype=torch.float64, device=device)  # sum_i f_ij
        self.squares = torch.zeros(latents, dtype=torch.float64, device=device)  # sum_i f_ij^2
        self.largest = torch.zeros(latents, dtype=crosscoder.decoder.dtype, device=device)
        # sum_i f_ij <d_j^chat, y_i^m> for y = x and y = xhat: (model, latents)
        self.with_activation = torch.zeros(len(MODELS), latents, dtype=torch.float64, device=device)
        self.with_reconstruction = torch.zeros_like(self.with_activation)

    def add(self, x: Tensor, active: Active) -> None:
        """A block of activations (tokens, model, d_model) on the crosscoder's scale, and its codes."""
        chat = self.crosscoder.decoder[:, 1]
        reconstruction = self.crosscoder.decode_active(active)
        weighted = torch.cat([x, reconstruction], dim=1).flatten(1)  # one gather for both targets and both models
        projected = (rows_per_latent(active, active.values, weighted).unflatten(1, (4, -1)) * chat[:, None]).sum(dim=2).double()
        self.with_activation += projected[:, :2].T
        self.with_reconstruction += projected[:, 2:].T
        self.count += torch.bincount(active.latents, minlength=active.shape[1])
        self.sum += active.sum_per_latent(active.values).double()
        self.squares += active.sum_per_latent(active.values.square()).double()
        self.largest.scatter_reduce_(0, active.latents, active.values, "amax")

    def betas(self) -> dict[str, Tensor]:
        """{target: (model, latents)} float64; NaN for a latent that never fired."""
        decoder = self.crosscoder.decoder.double()
        chat = decoder[:, 1]
        energy = chat.square().sum(dim=1) * self.squares
        own = torch.einsum("jmd,jd->mj", decoder, chat) * self.squares
        bias = self.sum * (self.crosscoder.decoder_bias.double() @ chat.T)
        numerators = {
            "reconstruction": self.with_reconstruction,
            "error": self.with_activation - self.with_reconstruction + own,
            "activation": self.with_activation,
            "activation_no_bias": self.with_activation - bias,
        }
        return {target: numerators[target] / torch.where(energy > 0, energy, torch.nan) for target in TARGETS}


@torch.no_grad()
def latent_scaling(crosscoder: Crosscoder, blocks: Iterable[Tensor]) -> pd.DataFrame:
    """One row per latent from blocks of raw activations (tokens, model, d_model).

    Columns: latent, active_tokens, frequency, mean_activation, max_activation; norm_base, norm_chat, decoder_cosine,
    relative_norm_difference; beta_{target}_{model} and nu_{target}. NaN where undefined: a dead latent, or beta_chat = 0.
    """
    sums = ScalingSums(crosscoder)
    tokens = 0
    for block in blocks:
        x = crosscoder.normalise(block.to(crosscoder.decoder.device))
        sums.add(x, Active.of(crosscoder.encode(x)))
        tokens += len(x)
    norms = crosscoder.decoder_norms()
    columns = {
        "latent": torch.arange(crosscoder.latents),
        "active_tokens": sums.count,
        "frequency": sums.count / tokens,
        "mean_activation": sums.sum / sums.count.clamp_min(1),
        "max_activation": sums.largest,
        "norm_base": norms[:, 0],
        "norm_chat": norms[:, 1],
        "decoder_cosine": torch.nn.functional.cosine_similarity(crosscoder.decoder[:, 0], crosscoder.decoder[:, 1], dim=1),
        "relative_norm_difference": relative_norm_difference(norms),
    }
    for target, beta in sums.betas().items():
        columns |= {f"beta_{target}_{model}": beta[m] for m, model in enumerate(MODELS)}
        columns[f"nu_{target}"] = torch.where(beta[1] == 0, torch.nan, beta[0] / beta[1])
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def relative_norm_difference(norms: Tensor) -> Tensor:
    """(latents,) in [0, 1] from decoder norms (latents, model): 0 base-only, 1/2 equal, 1 chat-only (paper.md b)."""
    base, chat = norms.unbind(dim=1)
    return 0.5 * (1 + (chat - base) / torch.maximum(chat, base).clamp_min(torch.finfo(norms.dtype).tiny))
