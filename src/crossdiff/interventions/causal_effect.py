"""Causal effect (docs/method.md 12): which latents carry what fine-tuning changed in the chat model?

The effective chat-only set is ranked twice, by decoder norm difference and by latent scaling. Each half of
each ranking is patched from the chat model's into the base model's activations. If a ranking finds what
matters, its best half lowers the KL to the chat model more than its worst half does. The strongest groups of
confirmed latents are patched as sets of their own, which says what share of the KL each carries.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.config import Patching
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.intervals import RESAMPLES, central_95, draw_counts, normal_mean
from crossdiff.interventions.patching import FORMS, WHOLE, Variant, answer_kl
from crossdiff.latents.applies import DOES_NOT_APPLY, reason
from crossdiff.latents.evaluation import most_chat_leaning, ranked_by_scaling
from crossdiff.latents.strongest_groups import SHOWN, strongest
from crossdiff.texts.chats import is_answer
from crossdiff.texts.columns import joined, taken
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

RANKINGS = ("norm", "scaling")


def patched_sets(betas: pd.DataFrame, top: int, random_sets: int, seed: int) -> dict[str, np.ndarray]:
    """Form halves of the ``top`` most chat-leaning live latents: name -> ids.

    There are a best and a worst half by each ranking, and ``random_sets`` random halves. If the number of
    latents is odd, the middle one is in neither half. Latents without a rank by latent scaling are in neither
    of its halves. Without a base decoder there is no ranking, and there are random halves alone.
    """
    chat_leaning = most_chat_leaning(betas, top)
    rankings = {} if reason(betas) else {"norm": chat_leaning, "scaling": ranked_by_scaling(chat_leaning)}
    sets = {}
    for name, ranked in rankings.items():
        latents, half = ranked.latent.to_numpy(), len(ranked) // 2
        sets[f"best_{name}"], sets[f"worst_{name}"] = latents[:half], latents[len(latents) - half :]
    generator, latents = np.random.default_rng(seed), chat_leaning.latent.to_numpy()
    for number in range(1, random_sets + 1):
        sets[f"random_{number}"] = np.sort(generator.choice(latents, len(latents) // 2, replace=False))
    return sets


def group_sets(groups: pd.DataFrame) -> dict[str, np.ndarray]:
    """The SHOWN strongest groups of confirmed latents: name ``group_NUMBER`` -> ids.

    ``groups`` is a table of ``group_table``, and numbers are those of its groups.
    """
    return {
        f"group_{number}": np.unique(groups.latent[groups.group == number].to_numpy())
        for number in strongest(groups, SHOWN)
    }


def members(sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """List the latents of every set. Columns: variant (the set's name, as in ``kl_table``), latent."""
    rows = [(name, latent) for name, latents in sets.items() for latent in latents.tolist()]
    return pd.DataFrame(rows, columns=["variant", "latent"])


def variants(sets: dict[str, np.ndarray]) -> list[Variant]:
    """List every patched run: WHOLE, all sets in subtraction form, and ranked halves in additive form too."""
    main, extra = FORMS
    return [
        *(Variant(name) for name in WHOLE),
        *(Variant(name, main, latents) for name, latents in sets.items()),
        *(Variant(name, extra, latents) for name, latents in sets.items() if _is_ranked(name)),
    ]


def _is_ranked(name: str) -> bool:
    return name.split("_")[0] in ("best", "worst")


def without_rankings(kl: pd.DataFrame, why: str) -> pd.DataFrame:
    """Add rows to a table of ``kl_table`` for the ranked halves that can't be formed.

    They have no values, but the reason ``why``.
    """
    size = kl.groupby("group", sort=False)[["tokens", "conversations"]].first().to_dict("index")
    added = [
        {"variant": f"{half}_{ranking}", "form": form, "group": group, **counts, DOES_NOT_APPLY: why}
        for group, counts in size.items()
        for form in FORMS
        for ranking in RANKINGS
        for half in ("best", "worst")
    ]
    return pd.concat([kl, pd.DataFrame(added)], ignore_index=True).astype({"undefined": "Int64"})


class Answers(NamedTuple):
    """The tokens whose prediction is compared. Each field is (tokens,) int64."""

    row: np.ndarray  # in the shard
    conversation: np.ndarray  # number of the sequence
    place: np.ndarray  # in the token's answer, from 0

    @classmethod
    def of(cls, shard: Shard) -> "Answers":
        """Select the assistant's words and turn ends.

        The first token of a sequence is left out, because nothing predicts it.
        """
        answer = is_answer(shard.role, shard.template) & (shard.position > 0)
        row = np.flatnonzero(answer)
        begins = ~answer[row - 1]  # a header stands between two answers, and before the first one
        number = np.arange(len(row))
        place = number - np.maximum.accumulate(np.where(begins, number, 0))
        return cls(row, np.searchsorted(shard.sequence_starts(), row, side="right") - 1, place)


def conversations(shards: Mapping[str, Sequence[Shard]], count: int) -> Shard:
    """Take the first ``count`` conversations with an answer from each data set, as one shard.

    Raises UserError if a data set has fewer.
    """
    kept: list[Shard] = []
    for dataset, of_dataset in shards.items():
        missing = count
        for shard in of_dataset:
            starts, stops = shard.sequence_bounds()
            for sequence in np.unique(Answers.of(shard).conversation)[:missing]:
                kept.append(taken(shard, slice(starts[sequence], stops[sequence])))
                missing -= 1
        if missing:
            has = f"{dataset} has {count - missing} validation chats with an answer"
            todo = f"lower the key or give {dataset} more tokens"
            raise UserError(f"causal.conversations: found {count}, {has}; {todo}")
    return joined(kept)


def causal_effect(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    crosscoder: Crosscoder,
    summary: Summary,
    shard: Shard,
    sets: dict[str, np.ndarray],
    settings: Patching,
    batch_tokens: int,
) -> pd.DataFrame:
    """Patch every variant of ``sets`` into the chat model, and measure the KL of the answers.

    ``sets``: name -> latents (ids). ``shard`` holds the conversations. A batch has about ``batch_tokens``
    tokens. Gives the table of ``kl_table``, one row per patched run and group of answer tokens.
    """
    measured = variants(sets)
    answers = Answers.of(shard)
    wanted = np.zeros(len(shard.token), bool)
    wanted[answers.row] = True
    found = answer_kl(base, chat, crosscoder, summary, shard, wanted, measured, batch_tokens)
    said = "the crosscoder says nothing about %d of %d tokens (first tokens and outliers)"
    log.info(said, found.left_out, len(shard.token))
    kl = found.kl[answers.row]
    return kl_table(kl, answers, measured, found.fired, settings.first_tokens, settings.seed)


def kl_table(
    kl: np.ndarray,
    answers: Answers,
    measured: Sequence[Variant],
    fired: np.ndarray,
    first_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """Summarise the KL of answer tokens, one row per variant and group of tokens.

    ``kl`` is (answer tokens, variants) in nats. ``fired`` (latents,) counts the tokens on which each latent
    fired. The groups are all tokens, the first ``first_tokens`` of each answer, and the rest. Columns:

    - variant, form: the patched run
    - latents, fired: latents in the set, and how many of these fired on the conversations
    - group, tokens, conversations
    - undefined: tokens whose KL is not finite; if there are any, the mean is NaN
    - kl: mean in nats
    - low, high: its 95 % interval, +- 1.96 sqrt(var / tokens), which is the paper's and takes tokens as
      independent
    - low_conversations, high_conversations: its 95 % interval by a bootstrap over conversations, because
      tokens of one answer are not independent
    - reduction: 1 - kl / kl of the variant none, with reduction_low and reduction_high from the same
      bootstrap
    - beyond_random: reduction minus the mean reduction of the random halves, with beyond_random_low and
      beyond_random_high from the same bootstrap. Only for ranked halves in the form of the random ones.
    """
    groups = {
        "all": np.ones(len(kl), bool),
        f"first {first_tokens}": answers.place < first_tokens,
        "rest": answers.place >= first_tokens,
    }
    sizes = [None if variant.latents is None else len(variant.latents) for variant in measured]
    firing = [None if v.latents is None else int((fired[v.latents] > 0).sum()) for v in measured]
    none = next(number for number, variant in enumerate(measured) if variant.name == "none")
    parts = []
    for group, member in groups.items():
        values = np.where(np.isfinite(kl), kl, np.nan)[member].astype(np.float64)
        conversation = answers.conversation[member]
        mean, low, high = normal_mean(values)
        drawn = _bootstrap(values, conversation, seed)
        low_conversations, high_conversations = central_95(drawn)
        with np.errstate(invalid="ignore", divide="ignore"):
            reduction, reductions = 1 - mean / mean[none], 1 - drawn / drawn[:, [none]]
        reduction_low, reduction_high = central_95(reductions)
        beyond_low, beyond_high = central_95(_beyond_random(reductions, measured))
        parts.append(
            pd.DataFrame(
                {
                    "variant": [variant.name for variant in measured],
                    "form": [variant.form for variant in measured],
                    "latents": pd.array(sizes, "Int64"),
                    "fired": pd.array(firing, "Int64"),
                    "group": group,
                    "tokens": len(values),
                    "conversations": len(np.unique(conversation)),
                    "undefined": np.isnan(values).sum(axis=0),
                    "kl": mean,
                    "low": low,
                    "high": high,
                    "low_conversations": low_conversations,
                    "high_conversations": high_conversations,
                    "reduction": reduction,
                    "reduction_low": reduction_low,
                    "reduction_high": reduction_high,
                    "beyond_random": _beyond_random(reduction[None], measured)[0],
                    "beyond_random_low": beyond_low,
                    "beyond_random_high": beyond_high,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _bootstrap(values: np.ndarray, conversation: np.ndarray, seed: int) -> np.ndarray:
    """Means of ``values`` (tokens, variants) on conversations drawn with replacement: (draws, variants).

    All variants are measured on the same draws. The means are NaN for fewer than two conversations.
    """
    names, number = np.unique(conversation, return_inverse=True)
    if len(names) < 2:
        return np.full((RESAMPLES, values.shape[1]), np.nan)
    tokens = np.bincount(number)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, number, values)
    drawn = draw_counts(len(names), RESAMPLES, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drawn @ sums) / (drawn @ tokens)[:, None]


def _beyond_random(reductions: np.ndarray, measured: Sequence[Variant]) -> np.ndarray:
    """Compare ``reductions`` (draws, variants) with the mean of the random halves on the same draw.

    NaN for all variants but the ranked halves in the form of the random ones, and without random halves.
    """
    random = [number for number, variant in enumerate(measured) if variant.name.startswith("random_")]
    ranked = [v.form == FORMS[0] and _is_ranked(v.name) for v in measured]
    if not random:
        return np.full(reductions.shape, np.nan)
    return np.where(ranked, reductions - reductions[:, random].mean(axis=1, keepdims=True), np.nan)
