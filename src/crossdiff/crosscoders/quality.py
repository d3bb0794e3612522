"""Measure how well a crosscoder reconstructs held-out activations (docs/method.md 7)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from crossdiff.config import MODELS
from crossdiff.config.imported import IMPORTED
from crossdiff.crosscoders.encoding import Encoded
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError


def reconstruction_quality(
    crosscoder: Crosscoder, blocks: Iterable[Encoded]
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure quality over all tokens of ``blocks``.

    Gives a dict with ``tokens``, ``l0`` (active latents per token), ``fve_base`` and ``fve_chat``, and the
    number of tokens on which each latent fired (latents,). FVE is 1 - sum_d Var(x - xhat) / sum_d Var(x)
    (docs/method.md 7). Its variances are over all tokens, not averaged over batches. A crosscoder that
    reconstructs the difference has ``fve_difference``, and None for both models. The crosscoder's ``limits``
    are there if it has any.

    Raises UserError for fewer than two tokens, because they have no variance.
    """
    device = crosscoder.decoder.device
    tokens, fired = 0, torch.zeros(crosscoder.latents, dtype=torch.long, device=device)
    shape = len(MODELS), crosscoder.d_model
    sums = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name in ("x", "x2", "e", "e2")}
    for x, active, _ in blocks:
        error = x - crosscoder.decode_active(active)
        for name, value in (("x", x), ("e", error)):
            sums[name] += value.double().sum(dim=0)
            sums[f"{name}2"] += value.double().square().sum(dim=0)
        fired += active.count_per_latent()
        tokens += len(x)
    if tokens < 2:
        raise UserError(
            f"datasets: found {tokens} validation tokens that count, allowed: 2 or more; "
            "raise validation_tokens, or loosen activations.skip_first or activations.max_norm_ratio"
        )
    variance = {
        name: (sums[f"{name}2"] / tokens - (sums[name] / tokens).square()).sum(dim=1) for name in ("x", "e")
    }
    fve = (1 - variance["e"] / variance["x"]).tolist()
    quality: dict[str, Any] = {"tokens": tokens, "l0": fired.sum().item() / tokens}
    quality |= {f"fve_{m}": None for m in MODELS}
    quality |= {f"fve_{name}": fve[place] for name, place in crosscoder.reconstructs.items()}
    if limits := crosscoder.limits.saved():
        quality["limits"] = limits
    return quality, fired.cpu().numpy()


def check_explains(quality: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise UserError for an imported crosscoder that explains nothing on held-out tokens.

    ``quality`` is what ``reconstruction_quality`` gives, ``config`` its configuration. Formats of others tell
    neither the models nor the scale of their activations. This finds a crosscoder of other ones.
    """
    if (source := config.get("training", {}).get(IMPORTED)) is None:
        return
    shown = {name: value for name, value in quality.items() if name.startswith("fve_") and value is not None}
    if not all(value > 0 for value in shown.values()):  # NaN is not
        numbers = ", ".join(f"{name.removeprefix('fve_')} {value:.2f}" for name, value in shown.items())
        where = source["hub"]["name"] if "hub" in source else "the imported crosscoder"
        raise UserError(
            f"{where} explains nothing of this pair's activations at layer {source['layer']} (FVE of "
            f"{numbers}), allowed: above 0; name the models and layer that it was trained on, and leave out "
            "what its training left out (activations.skip_first, activations.max_norm_ratio)"
        )
