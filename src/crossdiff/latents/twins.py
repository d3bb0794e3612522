"""Twins: a chat-only and a base-only latent of nearly the same direction, and whether they fire in the same places (docs/method.md 11)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from crossdiff.config import BASE, CHAT, Twins
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents.twin_counts import CONTROL, TWIN

COLUMNS = (
    "kind",
    "chat_only",
    "base_only",
    "cosine",
    "divergence",
    "high_chat_only",
    "high_base_only",
    "high_both",
)
HIGH, LOW = 0.4, 0.1  # of a pair's joint maximum: high is above the one, low up to the other
ROWS_AT_ONCE = 1024
CONTROL_SEED = 0


class Activity(NamedTuple):
    """Where one latent fires, and how strongly."""

    token: np.ndarray  # number among the kept tokens, in increasing order
    value: np.ndarray


class FiringDivergence(NamedTuple):
    """How far a chat-only and a base-only latent fire apart, and on how many tokens each of them, and both, are high."""

    divergence: float
    high_chat_only: int
    high_base_only: int
    high_both: int


def firing_divergence(chat_only: Activity, base_only: Activity) -> FiringDivergence:
    """(# one high and the other low) / (# one of them high), activations over the pair's joint maximum.

    1: never strong together, 0: always; NaN for two that never fire.
    """
    tokens = np.union1d(chat_only.token, base_only.token)
    values = np.zeros((2, len(tokens)))
    for row, activity in zip(values, (chat_only, base_only), strict=True):
        row[np.searchsorted(tokens, activity.token)] = activity.value
    largest = values.max(initial=0)
    high, low = values > HIGH * largest, values <= LOW * largest
    either, apart = high.any(axis=0).sum(), (high & low[::-1]).any(axis=0).sum()
    return FiringDivergence(
        apart / either if either else np.nan,
        int(high[0].sum()),
        int(high[1].sum()),
        int(high.all(axis=0).sum()),
    )


def twin_pairs(
    decoder: Tensor, chat_only: np.ndarray, base_only: np.ndarray, cosine_above: float
) -> np.ndarray:
    """(pairs, 2): all (i, j) such that the chat direction of latent ``chat_only[i]`` and the base direction of ``base_only[j]`` agree.

    ``decoder`` (latents, model, d_model).
    """
    base = normalize(decoder[base_only, BASE], dim=1)
    found = [torch.empty(0, 2, dtype=torch.long, device=decoder.device)]
    for start in range(0, len(chat_only), ROWS_AT_ONCE):
        chat = normalize(decoder[chat_only[start : start + ROWS_AT_ONCE], CHAT], dim=1)
        found.append((chat @ base.T > cosine_above).nonzero())
        found[-1][:, 0] += start
    return torch.cat(found).numpy()


def control_pairs(twins: np.ndarray, n_chat_only: int, n_base_only: int) -> np.ndarray:
    """(pairs, 2): as many random pairs as there are ``twins``, none of them a twin; fewer where the classes hold no more."""
    n_pairs = n_chat_only * n_base_only
    drawn = np.random.default_rng(CONTROL_SEED).choice(n_pairs, min(n_pairs, 2 * len(twins)), replace=False)
    others = drawn[~np.isin(drawn, twins[:, 0] * n_base_only + twins[:, 1])][: len(twins)]
    return np.stack(np.divmod(others, n_base_only), axis=1)


def find_twins(
    crosscoder: Crosscoder, active: str | Path, betas: pd.DataFrame, settings: Twins
) -> pd.DataFrame:
    """Twins and control pairs of a crosscoder with the divergence of their activations; no rows where a class is empty or nothing agrees.

    Columns: kind (twin or control), chat_only and base_only (latents), cosine, divergence, and on how many tokens each of the two, and
    both, are high. Activations are those of the file ``active`` of active entries, times the sum of the latent's decoder norms, so that
    both are on one scale.
    """
    chat_only, base_only = (
        betas.latent[betas["class"] == name].to_numpy(copy=True) for name in ("chat-only", "base-only")
    )
    decoder = crosscoder.decoder
    places = twin_pairs(decoder, chat_only, base_only, settings.cosine_above)
    if not len(places):
        return pd.DataFrame(columns=COLUMNS)
    kinds = [TWIN] * len(places)
    places = np.concatenate([places, control_pairs(places, len(chat_only), len(base_only))])
    kinds += [CONTROL] * (len(places) - len(kinds))
    pairs = np.stack([chat_only[places[:, 0]], base_only[places[:, 1]]], axis=1)
    directions = decoder[pairs[:, 0], CHAT], decoder[pairs[:, 1], BASE]
    cosines = torch.nn.functional.cosine_similarity(*directions, dim=1).numpy()
    activity = activities(active, crosscoder.decoder_norms().sum(dim=1).numpy(), np.unique(pairs))
    rows = [
        (kind, chat, base, cosine, *firing_divergence(activity[chat], activity[base]))
        for kind, (chat, base), cosine in zip(kinds, pairs.tolist(), cosines, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def activities(active: str | Path, scale: np.ndarray, latents: np.ndarray) -> dict[int, Activity]:
    """The activations, times ``scale`` (of every latent), of a few latents (numbers in increasing order) on all kept tokens."""
    wanted = np.isin(np.arange(len(scale)), latents)
    parts, tokens = [], 0
    for found in ActiveFile(active):
        chosen = wanted[found.latent]
        latent, token = (
            found.latent[chosen],
            tokens + np.repeat(np.arange(len(found.rows)), np.diff(found.bounds))[chosen],
        )
        parts.append((latent, token, found.value[chosen] * scale[latent]))
        tokens += len(found.rows)
    latent, token, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(latent, kind="stable")  # tokens stay in order
    borders = np.searchsorted(latent[order], latents, side="right")
    return {
        int(number): Activity(token[part], value[part])
        for number, part in zip(latents, np.split(order, borders[:-1]), strict=True)
    }
