"""Which planted concept a latent stands for: the one with which its activation correlates and whose direction it has."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import MODELS, Scoring
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.planted.concepts import Concepts
from crossdiff.planted.kinds import NONE


def correlations(active: str | Path, latents: int, firings: Iterable[pd.DataFrame], concepts: int) -> Tensor:
    """(latents, concepts): Pearson correlation of activations and strengths over all kept tokens, in the model where it is larger.

    Activations from the file ``active`` of active entries; ``firings`` as of planting, one per shard in order. NaN for a latent that never
    fires. Both sides are sparse, and so are the products.
    """
    width = concepts * len(MODELS)
    joint = np.zeros((latents, width))
    f, f2 = np.zeros((2, latents))
    s, s2 = np.zeros((2, width))
    tables, number = iter(firings), -1
    file = ActiveFile(active)
    for found in file:
        while number < found.shard:
            firing, number = next(tables), number + 1
        truth = _strengths(firing, found.rows, concepts)
        value = found.value.astype(np.float64)
        products = (
            csr_array((value, found.latent, found.bounds), shape=(len(found.rows), latents)).T @ truth
        ).tocoo()
        joint[products.row, products.col] += products.data
        f += np.bincount(found.latent, value, latents)
        f2 += np.bincount(found.latent, value**2, latents)
        s += truth.sum(axis=0)
        s2 += truth.power(2).sum(axis=0)
    tokens = file.tokens
    joint, f, f2, s, s2 = map(torch.from_numpy, (joint, f, f2, s, s2))
    covariance = tokens * joint - f[:, None] * s
    variances = (tokens * f2 - f.square())[:, None] * (tokens * s2 - s.square())
    found = torch.where(variances > 0, covariance / variances.clamp_min(0).sqrt(), torch.nan).unflatten(
        1, (concepts, len(MODELS))
    )
    # A concept that one model does not have has no correlation there.
    return torch.where(found.isnan().all(dim=2), torch.nan, found.nan_to_num(nan=-1.0).amax(dim=2))


def _strengths(firing: pd.DataFrame, rows: np.ndarray, concepts: int) -> csr_array:
    """(rows, concepts x model) float64: the strengths on some ``rows`` of a shard (in order)."""
    place = np.searchsorted(rows, firing.row)
    used = rows[np.minimum(place, len(rows) - 1)] == firing.row.to_numpy()
    column = firing.concept.to_numpy()[used].astype(np.int64) * len(MODELS)
    values = np.concatenate([firing[model].to_numpy(np.float64)[used] for model in MODELS])
    columns = np.concatenate([column + m for m in range(len(MODELS))])
    return coo_array(
        (values, (np.tile(place[used], len(MODELS)), columns)), (len(rows), concepts * len(MODELS))
    ).tocsr()


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
