"""Which planted concept a latent stands for: the one with which its activation correlates and whose direction it has."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.activations.pairs import PairedActivations, kept_blocks
from crossdiff.config import MODELS, Scoring
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import rows_per_latent
from crossdiff.planted.concepts import Concepts
from crossdiff.planted.kinds import NONE
from crossdiff.planted.planting import strengths


@torch.no_grad()
def correlations(crosscoder: Crosscoder, activations: PairedActivations, firings: Iterable[pd.DataFrame], concepts: int) -> Tensor:
    """(latents, concepts): Pearson correlation of activations and strengths over all kept tokens, in the model where it is larger.

    ``firings`` as of planting, one per shard in order. NaN for a latent that never fires.
    """
    width = concepts * len(MODELS)
    joint = torch.zeros(crosscoder.latents, width, dtype=torch.float64)
    f, f2 = torch.zeros(2, crosscoder.latents, dtype=torch.float64)
    s, s2 = torch.zeros(2, width, dtype=torch.float64)
    tokens = 0
    device = crosscoder.decoder.device
    for shard, firing in zip(activations.shards, firings, strict=True):
        for rows, block in kept_blocks(shard, activations.summary):
            truth = strengths(firing, concepts, int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]].flatten(1)
            active = crosscoder.active(crosscoder.normalise(block.to(device)))
            joint += rows_per_latent(active, truth.to(device)).double().cpu()
            f += active.sum_per_latent(active.values).double().cpu()
            f2 += active.sum_per_latent(active.values.square()).double().cpu()
            s += truth.double().sum(dim=0)
            s2 += truth.double().square().sum(dim=0)
            tokens += len(rows)
    covariance = tokens * joint - f[:, None] * s
    variances = (tokens * f2 - f.square())[:, None] * (tokens * s2 - s.square())
    found = torch.where(variances > 0, covariance / variances.clamp_min(0).sqrt(), torch.nan).unflatten(1, (concepts, len(MODELS)))
    # A concept that one model does not have has no correlation there.
    return torch.where(found.isnan().all(dim=2), torch.nan, found.nan_to_num(nan=-1.0).amax(dim=2))


def cosines(decoder: Tensor, directions: Tensor) -> Tensor:
    """(latents, concepts): cosine of a latent's and a concept's direction in the model where the latent's decoder is longer."""
    per_model = torch.einsum("jmd,cmd->jcm", normalize(decoder, dim=2), directions.to(decoder))
    longer = decoder.norm(dim=2).argmax(dim=1)
    return per_model.gather(2, longer[:, None, None].expand(-1, per_model.shape[1], 1)).squeeze(2)


def match(correlation: Tensor, cosine: Tensor, concepts: Concepts, scoring: Scoring) -> pd.DataFrame:
    """A row per latent: latent, concept (NONE if it stands for none), kind, ratio, correlation and cosine with that concept, and
    passes_for, the number of concepts for which it could stand. ``correlation`` and ``cosine`` are (latents, concepts)."""
    fits = (correlation > scoring.correlation_above) & (cosine > scoring.cosine_above)
    best = correlation.masked_fill(~fits, -torch.inf).argmax(dim=1)
    found = fits.any(dim=1)
    latents = torch.arange(len(fits))
    table = pd.DataFrame({"latent": latents.numpy(), "concept": torch.where(found, best, NONE).numpy()})
    truth = concepts.table.set_index("concept")
    table["kind"] = table.concept.map(truth.kind).fillna("none")
    table["ratio"] = table.concept.map(truth.ratio)
    for name, values in (("correlation", correlation), ("cosine", cosine)):
        table[name] = values[latents, best].where(found, torch.tensor(torch.nan, dtype=values.dtype)).numpy()
    table["passes_for"] = fits.sum(dim=1).numpy()
    return table
