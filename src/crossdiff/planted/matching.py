"""Which planted concept a latent stands for.

It is the concept with which its activation correlates and whose direction it has.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import BASE, CHAT, MODELS, Scoring
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.planted.concepts import Concepts
from crossdiff.planted.kinds import NONE


def correlations(active: str | Path, latents: int, firings: Iterable[pd.DataFrame], concepts: int) -> Tensor:
    """Pearson correlation of activations and strengths over all kept tokens: (latents, concepts).

    Each value is the larger one of the two models. ``active`` is the file of active entries. ``firings`` are
    the tables of ``planting.firings``, one per shard in order. NaN for a latent that never fires. Both sides
    and their products are sparse.
    """
    width = concepts * len(MODELS)
    # Sums over tokens of f s, f, f^2, s and s^2, where f is the activation and s the strength.
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
        codes = csr_array((value, found.latent, found.bounds), shape=(len(found.rows), latents))
        products = (codes.T @ truth).tocoo()
        joint[products.row, products.col] += products.data
        f += np.bincount(found.latent, value, latents)
        f2 += np.bincount(found.latent, value**2, latents)
        s += truth.sum(axis=0)
        s2 += truth.power(2).sum(axis=0)
    return _larger_correlation(file.tokens, *map(torch.from_numpy, (joint, f, f2, s, s2)))


def _larger_correlation(n: int, joint: Tensor, f: Tensor, f2: Tensor, s: Tensor, s2: Tensor) -> Tensor:
    """Correlations (latents, concepts), the larger one of both models, from sums over ``n`` tokens.

    ``joint`` is (latents, concepts x model). ``f`` and ``f2`` are (latents,). ``s`` and ``s2`` are
    (concepts x model,).
    """
    covariance = n * joint - f[:, None] * s
    variances = (n * f2 - f.square())[:, None] * (n * s2 - s.square())
    found = torch.where(variances > 0, covariance / variances.clamp_min(0).sqrt(), torch.nan)
    found = found.unflatten(1, (len(s) // len(MODELS), len(MODELS)))
    # If one model does not have a concept, its correlation there is undefined and does not count.
    return torch.where(found.isnan().all(dim=2), torch.nan, found.nan_to_num(nan=-1.0).amax(dim=2))


def _strengths(firing: pd.DataFrame, rows: np.ndarray, concepts: int) -> csr_array:
    """The strengths on some ``rows`` of a shard (in order): (rows, concepts x model) float64."""
    place = np.searchsorted(rows, firing.row)
    used = rows[np.minimum(place, len(rows) - 1)] == firing.row.to_numpy()
    column = firing.concept.to_numpy()[used].astype(np.int64) * len(MODELS)
    values = np.concatenate([firing[model].to_numpy(np.float64)[used] for model in MODELS])
    columns = np.concatenate([column + m for m in range(len(MODELS))])
    at = (np.tile(place[used], len(MODELS)), columns)
    return coo_array((values, at), (len(rows), concepts * len(MODELS))).tocsr()


def cosines(decoder: Tensor, directions: Tensor) -> Tensor:
    """Cosine of each latent's and each concept's direction: (latents, concepts).

    It is taken in the model where the latent's decoder is longer. ``decoder`` is (latents, model, d_model),
    ``directions`` (concepts, model, d_model).
    """
    per_model = torch.einsum("jmd,cmd->jcm", normalize(decoder, dim=2), directions.to(decoder))
    longer = decoder.norm(dim=2).argmax(dim=1)
    return per_model.gather(2, longer[:, None, None].expand(-1, per_model.shape[1], 1)).squeeze(2)


def of_difference(concepts: Concepts) -> Tensor:
    """Give the direction of each concept in chat minus base: (concepts, model, d_model), the same twice.

    A concept of one strength and direction in both models has its own one: it is there where it fires in one
    model alone.
    """
    ratio = torch.from_numpy(concepts.table.ratio.to_numpy(np.float32, copy=True))[:, None]
    base = torch.where(ratio.isinf(), 1.0, ratio)
    chat = torch.where(ratio.isinf(), 0.0, 1.0)
    directions = concepts.directions
    difference = chat * directions[:, CHAT] - base * directions[:, BASE]
    is_nothing = difference.norm(dim=1, keepdim=True) < 1e-3
    difference = normalize(torch.where(is_nothing, directions[:, CHAT], difference), dim=1)
    return difference[:, None].expand_as(directions)


def match(correlation: Tensor, cosine: Tensor, concepts: Concepts, scoring: Scoring) -> pd.DataFrame:
    """Find the concept that each latent stands for. ``correlation`` and ``cosine`` are (latents, concepts).

    A latent can stand for a concept if both exceed the thresholds of ``scoring``. Of several such concepts it
    stands for the one with the largest correlation. Gives one row per latent, with the columns:

    - latent
    - concept: its number, or NONE
    - kind, ratio: of that concept; the kind is "none" if there is no concept
    - correlation, cosine: with that concept
    - passes_for: number of concepts for which the latent could stand
    """
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
