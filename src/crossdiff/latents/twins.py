"""Twins: a chat-only and a base-only latent of nearly the same direction (docs/method.md 11).

This module finds them, and measures whether they fire in the same places.
"""

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
HIGH, LOW = 0.4, 0.1  # shares of a pair's joint maximum: high is above HIGH, low is up to LOW
ROWS_AT_ONCE = 1024  # chat-only latents compared at a time
CONTROL_SEED = 0


class Activity(NamedTuple):
    """Where one latent fires, and how strongly. Both fields are (activations,)."""

    token: np.ndarray  # number among the kept tokens, in increasing order
    value: np.ndarray  # activation


class FiringDivergence(NamedTuple):
    """The divergence of a chat-only and a base-only latent, and the tokens on which they are high."""

    divergence: float
    high_chat_only: int  # tokens on which the chat-only latent is high
    high_base_only: int
    high_both: int


def firing_divergence(chat_only: Activity, base_only: Activity) -> FiringDivergence:
    """Measure how far two latents fire apart (docs/method.md 11).

    Divergence is the number of tokens on which one is high and the other low, over those on which one is
    high. High and low refer to the joint maximum of both latents. 1 means that they are never strong
    together, 0 that they always are. NaN if neither ever fires.
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
    """Find all pairs of a chat-only and a base-only latent whose directions agree.

    Directions agree if the cosine of the first latent's chat direction and the second latent's base direction
    exceeds ``cosine_above``. ``decoder`` is (latents, model, d_model). Gives (pairs, 2): places in
    ``chat_only`` and in ``base_only``.
    """
    base = normalize(decoder[base_only, BASE], dim=1)
    found = [torch.empty(0, 2, dtype=torch.long, device=decoder.device)]
    for start in range(0, len(chat_only), ROWS_AT_ONCE):
        chat = normalize(decoder[chat_only[start : start + ROWS_AT_ONCE], CHAT], dim=1)
        found.append((chat @ base.T > cosine_above).nonzero())
        found[-1][:, 0] += start
    return torch.cat(found).numpy()


def control_pairs(twins: np.ndarray, n_chat_only: int, n_base_only: int) -> np.ndarray:
    """Draw as many random pairs as there are ``twins`` (pairs, 2), none of them a twin. Gives (pairs, 2).

    There are fewer if the two classes hold no more.
    """
    n_pairs = n_chat_only * n_base_only
    drawn = np.random.default_rng(CONTROL_SEED).choice(n_pairs, min(n_pairs, 2 * len(twins)), replace=False)
    others = drawn[~np.isin(drawn, twins[:, 0] * n_base_only + twins[:, 1])][: len(twins)]
    return np.stack(np.divmod(others, n_base_only), axis=1)


def find_twins(
    crosscoder: Crosscoder, active: str | Path, betas: pd.DataFrame, settings: Twins
) -> pd.DataFrame:
    """Find the twins of a crosscoder, and control pairs.

    There are no rows if a class is empty or no directions agree.
    ``active`` is the file of active entries. Its activations are multiplied by the sum of the latent's
    decoder norms, so that both latents of a pair are on one scale. Columns:

    - kind: twin or control
    - chat_only, base_only: the two latents
    - cosine: of the chat direction of the one and the base direction of the other
    - divergence: see ``firing_divergence``
    - high_chat_only, high_base_only, high_both: tokens on which each of the two, or both, are high
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
    """Read the activations of a few ``latents`` on all kept tokens, times ``scale``.

    ``latents`` are numbers in increasing order. ``scale`` is (all latents,).
    """
    wanted = np.isin(np.arange(len(scale)), latents)
    parts, tokens = [], 0
    for found in ActiveFile(active):
        chosen = wanted[found.latent]
        latent = found.latent[chosen]
        token = tokens + np.repeat(np.arange(len(found.rows)), np.diff(found.bounds))[chosen]
        parts.append((latent, token, found.value[chosen] * scale[latent]))
        tokens += len(found.rows)
    latent, token, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(latent, kind="stable")  # tokens stay in order
    borders = np.searchsorted(latent[order], latents, side="right")
    return {
        int(number): Activity(token[part], value[part])
        for number, part in zip(latents, np.split(order, borders[:-1]), strict=True)
    }
