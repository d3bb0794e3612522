"""Matryoshka BatchTopK: the first latents alone must reconstruct, too (docs/method.md 18).

Latents are selected as in BatchTopK. Then each prefix of the dictionary reconstructs the activations with
those of its latents that were selected. The loss is the sum of all errors. So the first latents learn broad
concepts, and the later ones need not split these.
"""

import itertools

import torch
from torch import Tensor

from crossdiff.config.newer_losses import MatryoshkaSettings, latents_of
from crossdiff.crosscoders.losses.base import reconstruction_error
from crossdiff.crosscoders.losses.batchtopk import BatchTopKLoss, Fit
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, grouped_rows


class MatryoshkaLoss(BatchTopKLoss):
    """The sum over prefixes p of the error of x - xhat_p, with one decoder bias for all prefixes.

    The last prefix is the whole dictionary. The auxiliary loss is that of BatchTopK.
    """

    settings: MatryoshkaSettings
    ends: Tensor  # (prefix,) int64: the number of latents of each prefix

    def __init__(self, crosscoder: Crosscoder, settings: MatryoshkaSettings) -> None:
        super().__init__(crosscoder, settings)
        ends = [latents_of(share, crosscoder.latents) for share in (*settings.prefixes, 1.0)]
        self.register_buffer("ends", torch.tensor(ends, device=crosscoder.decoder.device), persistent=False)
        sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
        crosscoder.partition = {f"prefix{number}": size for number, size in enumerate(sizes, start=1)}

    def fit(self, crosscoder: Crosscoder, x: Tensor, active: Active, chosen: Tensor) -> Fit:
        pieces = crosscoder.pieces.get("decoder")
        added = grouped_rows(crosscoder.decoder.flatten(1), active, self.ends, pieces)
        nested = added.cumsum(dim=1).unflatten(2, x.shape[1:]) + crosscoder.decoder_bias
        reconstruction, squared = nested[:, -1], self.settings.squared_error
        loss = len(self.ends) * reconstruction_error(x[:, None], nested, squared)  # a sum of means
        whole = reconstruction_error(x, reconstruction.detach(), squared)
        return Fit(reconstruction, loss, {"reconstruction_loss": whole, "prefix_loss": loss - whole})
