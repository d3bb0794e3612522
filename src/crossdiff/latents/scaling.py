"""Latent scaling (docs/method.md 9): how much of latent j does each model need?

beta_j^m minimises sum_i || beta f_j(x_i) d_j - y_i^m ||^2, so
beta_j^m = sum_i f_ij <d_j, y_i^m> / (||d_j||^2 sum_i f_ij^2).
The direction d_j is the chat decoder's, and nu_j = beta_j^base / beta_j^chat.
The targets y^m are on the crosscoder's scale:

- reconstruction: xhat^m, latent j and bias included
- error: x^m - xhat^m + f_j d_j^m, the error with latent j's own part added back
- activation: x^m
- activation_no_bias: x^m - decoder bias

Betas are computed for two more directions. With the base decoder's direction, the mirrored ratio
beta^chat / beta^base judges base-only latents. This extends the paper. A random direction of the chat
direction's norm shows what chance gives. This is the paper's control.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from crossdiff.config import BASE, CHAT, FEWEST_ACTIVE_BLOCKS, MODELS, Bootstrap
from crossdiff.crosscoders.encoding import Encoded
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, rows_per_latent
from crossdiff.device import keep_freed_memory
from crossdiff.intervals import ENDS, draw_counts
from crossdiff.latents.applies import DOES_NOT_APPLY

TARGETS = ("reconstruction", "error", "activation", "activation_no_bias")
# Targets are projected on the decoder's two directions and on a random one of the chat direction's norm.
DIRECTIONS = ("chat", "base", "control")
# Columns that need no base decoder.
WITHOUT_BASE = (
    *("latent", "active_tokens", "frequency", "mean_activation", "max_activation"),
    *("norm_chat", "active_blocks"),
)
LATENTS_AT_ONCE = 4096  # bounds the memory of the bootstrap


class ScalingSums:
    """The sums behind every beta, for each block of documents.

    One pass gathers them, and it touches active entries only. A latent's targets are summed first, as sum_i
    f_ij y_i^m. The sum is projected on the latent's directions when a block of documents is complete. The
    leave-one-out term needs no extra pass: sum_i f_ij <d_j, f_ij d_j^m> = <d_j, d_j^m> sum_i f_ij^2.
    """

    def __init__(self, crosscoder: Crosscoder, blocks: int, seed: int) -> None:
        self.crosscoder = crosscoder
        decoder = crosscoder.decoder
        generator = torch.Generator().manual_seed(seed)
        control = torch.randn(decoder[:, CHAT].shape, generator=generator).to(decoder)
        control *= (decoder[:, CHAT].norm(dim=1) / control.norm(dim=1))[:, None]
        # (latents, direction, d_model)
        self.directions = torch.stack([decoder[:, CHAT], decoder[:, BASE], control], dim=1)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, blocks, crosscoder.latents, dtype=torch.float64, device=decoder.device)

        # Active tokens, sum_i f_ij and sum_i f_ij^2: (block, latents) each.
        self.count, self.sum, self.squares = zeros(), zeros(), zeros()
        # sum_i f_ij times the part of f_ij that model m's reconstruction uses: (model, block, latents).
        self.own = zeros(len(MODELS))
        # sum_i f_ij <d_j, y_i^m> for y = x and y = xhat: (target, model, direction, block, latents).
        self.projected = zeros(2, len(MODELS), len(DIRECTIONS))
        self.largest = torch.zeros(crosscoder.latents, dtype=decoder.dtype, device=decoder.device)
        # sum_i f_ij y_i of the current block, for y = x and y = xhat: (latents, model x d_model).
        # The list is empty where a block begins.
        self.targets: list[Tensor] = []

    def add(self, x: Tensor, active: Active, block: int) -> None:
        """Add tokens of one ``block`` of documents.

        ``x`` (tokens, model, d_model) is on the crosscoder's scale. ``active`` holds its codes.
        """
        f = active.values
        for y, target in enumerate((x, self.crosscoder.decode_active(active))):
            summed = rows_per_latent(active, target.flatten(1))
            if y < len(self.targets):
                self.targets[y] += summed
            else:
                self.targets.append(summed)
        self.count[block] += active.count_per_latent()
        self.sum[block] += active.sum_per_latent(f)
        self.squares[block] += active.sum_per_latent(f.square())
        for m, used in enumerate(self.crosscoder.values_per_model(active)):
            self.own[m, block] += active.sum_per_latent(f * used)
        self.largest.scatter_reduce_(0, active.latents, f, "amax")

    def close(self, block: int) -> None:
        """Project the sums of a complete ``block`` on the directions, in the precision of the sums."""
        for y, target in enumerate(self.targets):
            per_model = target.unflatten(1, (len(MODELS), -1))
            projected = torch.bmm(per_model, self.directions.transpose(1, 2))  # (latents, model, direction)
            self.projected[y, ..., block, :] = projected.movedim(0, 2)
        self.targets = []

    def numerators(self, name: str) -> dict[str, Tensor]:
        """For each target, sum_i f_ij <d_j, y_i^m> along the direction ``name``: (model, block, latents)."""
        number = DIRECTIONS.index(name)
        direction, decoder = self.directions[:, number].double(), self.crosscoder.decoder.double()
        own = torch.einsum("jmd,jd->mj", decoder, direction)[:, None] * self.own
        bias = (self.crosscoder.decoder_bias.double() @ direction.T)[:, None] * self.sum
        with_activation, with_reconstruction = self.projected[:, :, number]
        return {
            "reconstruction": with_reconstruction,
            "error": with_activation - with_reconstruction + own,
            "activation": with_activation,
            "activation_no_bias": with_activation - bias,
        }

    def energy(self, name: str) -> Tensor:
        """||d_j||^2 sum_i f_ij^2, the denominator of every beta: (latents,), NaN if a latent never fired."""
        direction = self.directions[:, DIRECTIONS.index(name)].double()
        energy = direction.square().sum(dim=1) * self.squares.sum(dim=0)
        return torch.where(energy > 0, energy, torch.nan)


@torch.no_grad()
def latent_scaling(
    crosscoder: Crosscoder, blocks: Iterable[Encoded], tokens: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Compute every beta and nu, one row per latent. ``blocks`` hold ``tokens`` tokens in order.

    Columns about the latent:

    - latent, active_tokens, frequency (share of tokens), mean_activation and max_activation (over active
      tokens)
    - norm_base, norm_chat, decoder_cosine, relative_norm_difference: of its two decoder directions
    - active_blocks: blocks of documents in which it fires

    Columns for each target:

    - beta_{target}_{model}, along the chat direction
    - improvement_{target}_{model}: drop of the mean squared error over the latent's tokens, from beta = 0 to
      beta
    - nu_{target}, and its 95 % interval nu_{target}_low, nu_{target}_high
    - mirrored_nu_{target}: chat over base, along the base direction
    - control_beta_{target}_{model}: along the random direction

    A value is NaN where it is undefined: for a dead latent, for a denominator or direction of 0, and for an
    interval from fewer than FEWEST_ACTIVE_BLOCKS active blocks. Without a base decoder, all columns that
    compare both models are NaN. Some crosscoders have more columns (``of_loss``).
    """
    keep_freed_memory()
    sums = ScalingSums(crosscoder, bootstrap.blocks, bootstrap.seed)
    current = 0
    for part, number in document_blocks(blocks, tokens, bootstrap.blocks):
        if number != current:
            sums.close(current)
            current = number
        sums.add(part.x, part.active, number)
    sums.close(current)
    norms, count = crosscoder.decoder_norms(), sums.count.sum(dim=0)
    cosine = functional.cosine_similarity(crosscoder.decoder[:, BASE], crosscoder.decoder[:, CHAT], dim=1)
    columns = {
        "latent": torch.arange(crosscoder.latents),
        "active_tokens": count.long(),
        "frequency": count / tokens,
        "mean_activation": sums.sum.sum(dim=0) / count.clamp_min(1),
        "max_activation": sums.largest,
        "norm_base": norms[:, BASE],
        "norm_chat": norms[:, CHAT],
        # A loss may hold one of both directions at 0 (docs/method.md 16).
        "decoder_cosine": torch.where((norms > 0).all(dim=1), cosine, torch.nan),
        "relative_norm_difference": relative_norm_difference(norms),
        "active_blocks": (sums.count > 0).sum(dim=0),
    }
    mirrored, control = sums.numerators("base"), sums.numerators("control")
    energy, control_energy = sums.energy("chat"), sums.energy("control")
    for target, numerators in sums.numerators("chat").items():
        total = numerators.sum(dim=1)
        beta = total / energy
        for m, model in enumerate(MODELS):
            columns[f"beta_{target}_{model}"] = beta[m]
            columns[f"improvement_{target}_{model}"] = beta[m] * total[m] / count
            columns[f"control_beta_{target}_{model}"] = control[target][m].sum(dim=0) / control_energy
        columns[f"nu_{target}"] = _ratio(total[BASE], total[CHAT])
        columns[f"nu_{target}_low"], columns[f"nu_{target}_high"] = nu_interval(numerators, bootstrap)
        columns[f"mirrored_nu_{target}"] = _ratio(*mirrored[target].sum(dim=1).flip(0))
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    if crosscoder.limits.base_decoder:
        table.loc[:, ~table.columns.isin(WITHOUT_BASE)] = np.nan
    return table.assign(**of_loss(crosscoder))


def of_loss(crosscoder: Crosscoder) -> dict[str, Any]:
    """Return what the loss alone decides of each latent, as columns.

    - does_not_apply: why what compares both decoders has no value, where it has none
    - part: the latent's part of the crosscoder's partition, if it has one
    - norms_set: whether the loss sets the latent's norm difference, if it sets that of some latents
    """
    limits, parts = crosscoder.limits, crosscoder.parts
    columns: dict[str, Any] = {DOES_NOT_APPLY: limits.base_decoder} if limits.base_decoder else {}
    if parts:
        columns["part"] = parts
    if limits.parts:
        columns["norms_set"] = [part in limits.parts for part in parts]
    return columns


def document_blocks(parts: Iterable[Encoded], tokens: int, blocks: int) -> Iterator[tuple[Encoded, int]]:
    """Cut ``parts`` where a new block begins. Gives pairs of a part and its block's number.

    The ``blocks`` blocks have about equal size and hold whole documents. A document belongs to the block in
    which its first token lies. ``tokens`` is the number of tokens in all parts.
    """
    seen, document, start = 0, None, 0
    for part in parts:
        documents = part.documents
        place = seen + np.arange(len(documents))
        is_first = np.diff(documents, prepend=documents[0]) != 0
        is_first[0] = documents[0] != document
        start_of = np.maximum.accumulate(np.where(is_first, place, start if not is_first[0] else 0))
        number = start_of * blocks // tokens
        cuts = [0, *np.flatnonzero(np.diff(number)) + 1, len(number)]
        for first, stop in pairwise(cuts):
            yield part.part(first, stop), int(number[first])
        seen, document, start = seen + len(documents), documents[-1], int(start_of[-1])


def nu_interval(numerators: Tensor, bootstrap: Bootstrap) -> tuple[Tensor, Tensor]:
    """Both ends of the 95 % interval of nu, (latents,) each.

    The interval is a percentile bootstrap over blocks of documents. ``numerators`` is (model, block,
    latents). Tokens of one document are not independent, so whole blocks are drawn. The ends are NaN for a
    latent that fires in fewer than FEWEST_ACTIVE_BLOCKS blocks, because its interval would be far too narrow.
    """
    draws = draw_counts(bootstrap.blocks, bootstrap.samples, bootstrap.seed)
    weights = torch.from_numpy(draws).to(numerators)
    bounds = []
    for part in numerators.split(LATENTS_AT_ONCE, dim=2):
        base, chat = weights @ part[BASE], weights @ part[CHAT]  # (sample, latents)
        low_high = torch.nanquantile(_ratio(base, chat), torch.tensor(ENDS).to(part), dim=0)
        # A draw that misses all active blocks has no ratio and is dropped. With this many active blocks that
        # happens in fewer than one draw in 20,000, which does not move the quantiles.
        few = (part[CHAT] != 0).sum(dim=0) < FEWEST_ACTIVE_BLOCKS
        bounds.append(low_high.masked_fill(few, torch.nan))
    low, high = torch.cat(bounds, dim=1)
    return low, high


def _ratio(over: Tensor, under: Tensor) -> Tensor:
    return torch.where(under == 0, torch.nan, over / under)


def relative_norm_difference(norms: Tensor) -> Tensor:
    """Relative decoder norm difference, (latents,), from decoder norms (latents, model) (docs/method.md 8).

    0 means base-only, 1/2 equal norms, and 1 chat-only.
    """
    base, chat = norms.unbind(dim=1)
    return 0.5 * (1 + (chat - base) / torch.maximum(chat, base).clamp_min(torch.finfo(norms.dtype).tiny))
