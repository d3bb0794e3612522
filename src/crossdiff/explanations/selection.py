"""The choice of latents that a language model is asked about."""

import pandas as pd

from crossdiff.config import ExplainedLatents
from crossdiff.latents.evaluation import SAMPLE_SEED, confirmed_latents, most_chat_leaning, ranked_by_scaling
from crossdiff.latents.strongest_groups import of_findings


def chosen(betas: pd.DataFrame, groups: pd.DataFrame, latents: ExplainedLatents, top: int) -> list[int]:
    """Numbers of the latents that a config asks for, in order.

    There are fewer if the crosscoder has too few of a kind. Of the confirmed ones those that name findings
    come first (``groups`` is the table of ``group_table``), then the most chat-leaning. Low and high nu are
    ranked among the ``top`` most chat-leaning latents.
    """
    confirmed = confirmed_latents(betas)
    in_findings = confirmed.latent.isin(of_findings(groups))
    ranked = ranked_by_scaling(most_chat_leaning(betas, top))
    shared = betas[betas["class"] == "shared"]
    parts = [
        pd.concat([confirmed[in_findings], confirmed[~in_findings]]).head(latents.confirmed),
        most_chat_leaning(betas, latents.chat_leaning),
        shared.sample(min(latents.shared, len(shared)), random_state=SAMPLE_SEED),
        ranked.head(latents.low_nu),
        ranked.tail(latents.high_nu),
    ]
    return sorted({int(latent) for part in parts for latent in part.latent})
