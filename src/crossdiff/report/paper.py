"""The paper's headline values (arXiv 2504.02922) next to those of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from crossdiff.latents.evaluation import explained

LOSSES = ("batchtopk", "l1")  # that the paper has
KL_VARIANTS = {
    "none": "none",
    "all": "all",
    "error": "error",
    "template": "template",
    "best_norm": "best half by norm",
    "worst_norm": "worst half by norm",
    "best_scaling": "best half by latent scaling",
    "worst_scaling": "worst half by latent scaling",
}


def is_papers_run(published: Mapping[str, Any], base: str | None, chat: str | None, layer: int) -> bool:
    """Whether a pair (names on the hub) and layer are those of the published values."""
    return published["pair"] == {"base": base, "chat": chat, "layer": layer}


def quantities(
    evaluation: Mapping[str, Any], twins: pd.Series, template_tokens: pd.DataFrame, kl: pd.DataFrame | None
) -> dict[str, float]:
    """Return every quantity of data/paper.yaml, and some more like them, for one crosscoder.

    ``twins`` and ``template_tokens`` are its rows of tables/twins.csv and tables/template_tokens.csv. ``kl``
    is its kl.csv.
    """
    classes = evaluation["classes"]
    share = template_tokens.set_index("set").loc["chat-only"]
    found = {
        "FVE": np.mean(explained(evaluation)),
        "L0": evaluation["l0"],
        "dead share": classes["dead"] / evaluation["latents"],
        "base-only latents": classes["base-only"],
        "shared latents": classes["shared"],
        "chat-only latents": classes["chat-only"],
        "chat-only confirmed by latent scaling": evaluation["chat_only_confirmed"],
        "chat-only inside the shared nu_reconstruction": evaluation["chat_only_inside_shared"],
        "most chat-leaning confirmed by latent scaling": evaluation["top_confirmed"],
        "most chat-leaning inside the shared nu_reconstruction": evaluation["top_inside_shared"],
        "correlation of norm difference and nu_error": evaluation["correlation_nu_error"],
        "correlation of norm difference and nu_reconstruction": evaluation["correlation_nu_reconstruction"],
        "twins": twins.twins,
        "twins that fire apart": twins.twins_divergent,
        "chat-only mostly on template tokens": share.mostly_on_template,
        "chat-only at least a third on template tokens": share.at_least_a_third,
    }
    if kl is not None:
        main = kl[kl.form != "additive"].set_index(["group", "variant"]).kl
        for group in kl.group.unique():
            if group != "rest":
                tokens = "all tokens" if group == "all" else "first tokens"
                found |= {
                    f"KL {name}, {tokens}": main[group, variant] for variant, name in KL_VARIANTS.items()
                }
    return {name: np.nan if value is None else float(value) for name, value in found.items()}


def comparison(
    runs: Mapping[str, Mapping[str, float]], losses: Mapping[str, str], published: Mapping[str, Any] | None
) -> pd.DataFrame:
    """Return one row per quantity: the value of every crosscoder, and the published value for its loss.

    Published values are NaN unless the run is the paper's. Losses that the paper lacks have none.
    """
    values = published["values"] if published else {}
    columns: dict[str, list[float]] = {}
    names = list(next(iter(runs.values())))
    for crosscoder, run in runs.items():
        columns[crosscoder] = [run[name] for name in names]
        if (loss := losses[crosscoder]) in LOSSES:
            columns[f"paper_{loss}"] = [values.get(name, {}).get(loss, np.nan) for name in names]
    return pd.DataFrame({"quantity": names} | columns)
