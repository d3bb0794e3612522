"""A small planted pair without background, and handmade crosscoders whose scores follow from arithmetic."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from helpers_activations import LAYER, everything, token_shard, write_pair
from helpers_codes import active_file

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Bootstrap, Classes, LatentScaling, Planted, Scoring
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents.evaluation import beta_table
from crossdiff.latents.scaling import latent_scaling
from crossdiff.planted.concepts import Concepts, draw
from crossdiff.planted.matching import correlations, cosines, match
from crossdiff.planted.planting import firings, plant
from crossdiff.planted.scoring import latent_table

D_MODEL, NORM = 48, 3.0
LENGTHS = [40] * 120
THRESHOLDS, SCORING = LatentScaling(bootstrap=Bootstrap(blocks=10, samples=10)), Scoring()


def planted_settings(**changes) -> Planted:
    concepts = {"chat_only": 5, "base_only": 2, "weakened": 12, "decoupled": 2, "shared": 3}
    defaults = {"concepts": concepts, "seed": 3, "frequency": (0.02, 0.06), "fewest_firings": 20}
    return Planted(**defaults | {"largest_cosine": 0.6, "largest_norm_change": 2.0} | changes)


def planted_pair(folder: Path, settings: Planted) -> tuple[Concepts, PairedActivations, pd.DataFrame]:
    """Give concepts, the activations that contain them, and their firings."""
    shard = token_shard(LENGTHS)
    concepts = draw(settings, [shard], NORM, D_MODEL)
    fired = firings(concepts.table, settings, shard)
    activations = plant(torch.zeros(len(shard.token), D_MODEL), concepts, fired).transpose(0, 1)
    shards = [write_pair(folder, "0000", activations, LENGTHS)]
    return concepts, PairedActivations(shards, everything(shards)), fired


def handmade(concepts: Concepts, trap: bool) -> Crosscoder:
    """Make a latent per concept with its true directions and ratio, and two for a decoupled concept.

    With the ``trap`` the base decoders of weakened concepts have shrunk to nothing. The encoder is the
    pseudo-inverse of the true decoder, so codes are exact with and without it.
    """
    rows, shrunk = [], []
    for concept in concepts.table.itertuples():
        base, chat = concepts.directions[concept.concept]
        base = min(concept.ratio, 1.0) * base
        chat = chat * (concept.kind != "base_only")
        parts = [(base, chat)] if concept.kind != "decoupled" else [(base, 0 * chat), (0 * base, chat)]
        rows += [torch.stack(part) for part in parts]
        shrunk += [concept.kind == "weakened"] * len(parts)
    decoder = torch.stack(rows)
    crosscoder = Crosscoder(D_MODEL, len(decoder), LAYER)
    with torch.no_grad():
        crosscoder.encoder.copy_(torch.linalg.pinv(decoder.flatten(1)).T.unflatten(1, (2, D_MODEL)))
        crosscoder.threshold.fill_(0.1)
        if trap:
            decoder[torch.tensor(shrunk), 0] = 0
        crosscoder.decoder.copy_(decoder)
    return crosscoder.requires_grad_(False)


def scored(
    crosscoder: Crosscoder, concepts: Concepts, activations: PairedActivations, fired: pd.DataFrame
) -> pd.DataFrame:
    """Give the table of latents from which scores are made."""
    scaling = latent_scaling(
        crosscoder, encode(crosscoder, activations.blocks()), activations.tokens, THRESHOLDS.bootstrap
    )
    counts = pd.DataFrame({"latent": scaling.latent, "validation_active_tokens": scaling.active_tokens})
    betas = beta_table(scaling, counts, Classes(), THRESHOLDS)
    path = Path(activations.shards[0].paths[0]).with_name("active.parquet")
    correlation = correlations(
        active_file(path, crosscoder, activations), crosscoder.latents, [fired], len(concepts.table)
    )
    matched = match(correlation, cosines(crosscoder.decoder, concepts.directions), concepts, SCORING)
    return latent_table(betas, matched, SCORING)


def brute_force_correlation(codes: np.ndarray, strengths: np.ndarray) -> float:
    """Pearson's correlation of one latent with one concept (rows, model): the larger of both models."""
    pairs = [np.corrcoef(codes, strengths[:, m])[0, 1] for m in range(2) if strengths[:, m].any()]
    return max(pairs)
