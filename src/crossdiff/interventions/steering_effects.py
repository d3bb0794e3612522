"""The effects of steering on the chat model's answers, condition by condition (see steering.py)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.activations.pairs import Summary
from crossdiff.config import SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.intervals import RESAMPLES, central_95, draw_counts, wilson
from crossdiff.interventions.changes import Change
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.interventions.steering import (
    Asked,
    Condition,
    check_latents,
    conditions,
    directions,
    refusal_latents,
)
from crossdiff.models.answers import answer_nats
from crossdiff.models.padding import padded
from crossdiff.models.predictions import kl_from_chat
from crossdiff.models.refusals import is_refusal
from crossdiff.models.thoughts import said, without_thinking
from crossdiff.models.turns import contents, end_turns_as

log = logging.getLogger(__name__)

CONDITION = ["latent", "direction", "number", "change", "strength", "norm"]


class Steered(NamedTuple):
    """The results of steering with one crosscoder."""

    candidates: pd.DataFrame  # from ``refusal_latents``
    effects: pd.DataFrame  # from ``effects``
    answers: pd.DataFrame  # from ``steer``


def steering(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    crosscoder: Crosscoder,
    summary: Summary,
    betas: pd.DataFrame,
    requests_file: Mapping[str, Any],
    named: Sequence[int],
    name: str,
    top: int,
    settings: SteeringGrid,
) -> Steered:
    """Steer with the most refusal-related latent and with the ``named`` ones.

    ``name`` is the crosscoder's name in the config. ``requests_file`` is the parsed file. Its training
    requests choose the refusal-related latent among the ``top`` most chat-leaning ones. Its held-out requests
    measure. Thinking is switched off if the chat template can do so. Answers also end where the template
    ends a turn. Raises UserError if a named latent does not exist or never fired, and as ``refusal_latents``
    does.
    """
    check_latents(named, crosscoder, name)
    tokenizer, _ = without_thinking(tokenizer)
    end_turns_as(chat, tokenizer)
    train, held_out = (
        Asked.of(requests_file, part, settings.phrasings, tokenizer) for part in ("train", "held_out")
    )
    candidates = refusal_latents(base, chat, crosscoder, summary, betas, train, top)
    latents = list(dict.fromkeys([*candidates.latent.head(1), *named]))
    steered = [
        direction for latent in latents for direction in directions(crosscoder, betas, latent, settings)
    ]
    answers = steer(
        base,
        chat,
        tokenizer,
        crosscoder.layer,
        held_out,
        conditions(steered, settings.strengths),
        settings,
        summary.skip_first,
    )
    return Steered(candidates, effects(answers, settings.seed), answers)


def steer(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    asked: Asked,
    measured: Sequence[Condition],
    settings: SteeringGrid,
    skip_first: int,
) -> pd.DataFrame:
    """Let the chat model answer each request under each condition. Gives one row per condition and request.

    Changes apply at block ``layer``, from token ``skip_first`` of each prompt on. Answers are greedy.
    Columns, after those of the condition:

    - requests (harmful or benign), question
    - answer (as a reader sees it, without thoughts), refused
    - unfinished: whether the answer is nothing but a thought
    - tokens: number of the answer's tokens, without the end of the turn
    - cut: whether the answer reached ``answer_tokens``
    - kl: KL(p_chat || p_steered) in nats, mean over the first tokens of the unsteered answer, which both
      predict
    - nats: -log p of the answer's tokens under the base model, after the same prompt
    """
    prompts = [prompt.token for prompt in asked.prompt]
    start = [skip_first] * len(prompts)
    nothing = Change.nothing(chat.config.get_text_config().hidden_size)
    [unsteered] = answer(chat, read(chat, prompts, layer, start), [nothing], settings.answer_tokens)
    follow_up, counts = _first_tokens(unsteered.answers, settings.first_tokens)
    known = read(chat, prompts, layer, start, follow_up)
    changes = [condition.apply(len(nothing.added)) for condition in measured]
    expected, parts = None, []
    for condition, found in zip(measured, answer(chat, known, changes, settings.answer_tokens), strict=True):
        own = found.predicting[counts.to(found.predicting.device)]
        expected = own if expected is None else expected  # the first condition changes nothing
        spoken = contents(found.answers, chat)
        seen = said(prompts, spoken, tokenizer)
        parts.append(
            pd.DataFrame(
                condition.columns()
                | {
                    "requests": asked.kind,
                    "question": asked.question,
                    "answer": [answer.text for answer in seen],
                    "refused": [is_refusal(answer.text) for answer in seen],
                    "unfinished": [answer.unfinished for answer in seen],
                    "tokens": [len(ids) for ids in spoken],
                    "cut": [len(a) == len(b) for a, b in zip(found.answers, spoken, strict=True)],
                    "kl": _mean_per_row(kl_from_chat(chat, expected, [own])[:, 0], counts),
                    "ids": spoken,
                }
            )
        )
        log.info("%d of %d conditions", len(parts), len(measured))
    table = pd.concat(parts, ignore_index=True)
    asked_again = [prompts[row % len(prompts)] for row in range(len(table))]
    table["nats"] = answer_nats(base, asked_again, table.ids.tolist())
    return table.drop(columns="ids").astype({"latent": "Int64", "number": "Int64"})


def _first_tokens(answers: Sequence[np.ndarray], count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` - 1 tokens of each answer, and a mask (answers, count) of the tokens that exist."""
    tokens, real = padded([ids[:count] for ids in answers], width=count)
    return tokens[:, :-1], real


def _mean_per_row(values: Tensor, counts: Tensor) -> np.ndarray:
    """The mean of each row's values, (rows,).

    ``values`` belong to the true places of ``counts`` (rows, positions), in order.
    """
    rows = counts.nonzero()[:, 0].numpy()
    sums = np.bincount(rows, weights=values.cpu().numpy(), minlength=len(counts))
    return sums / np.bincount(rows, minlength=len(counts))


def effects(answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Summarise the answers of ``steer``, one row per condition and kind of request.

    Columns, after those of the condition:

    - requests: harmful or benign
    - asked, refused: numbers of requests
    - unfinished: number of answers that are nothing but a thought
    - rate, low, high: refused / (asked - unfinished), and its 95 % interval (Wilson)
    - cut: number of answers that reached the longest length
    - kl: mean over requests, in nats
    - length: mean number of tokens
    - perplexity: under the base model, exp(all nats / all tokens); NaN if no answer has a token
    - {kl, length, perplexity}_low and _high: 95 % intervals by a bootstrap over requests, seeded with
      ``seed``
    """
    rows = []
    for condition, group in answers.groupby([*CONDITION, "requests"], sort=False, dropna=False):
        asked, refused, unfinished = len(group), int(group.refused.sum()), int(group.unfinished.sum())
        rate, low, high = map(float, wilson(refused, asked - unfinished))
        row = dict(zip([*CONDITION, "requests"], condition, strict=True))
        row |= {"asked": asked, "refused": refused, "rate": rate, "low": low, "high": high}
        row |= {"unfinished": unfinished, "cut": int(group.cut.sum())}
        rows.append(row | _bootstrapped(group, seed))
    return pd.DataFrame(rows).astype({"latent": "Int64", "number": "Int64"})


def _bootstrapped(group: pd.DataFrame, seed: int) -> dict[str, float]:
    """Means over requests, and their 95 % intervals by a bootstrap.

    Requests are drawn with replacement, and all conditions get the same draws.
    """
    count = len(group)
    # The first row gives the estimate itself.
    weights = np.vstack([np.ones(count), draw_counts(count, RESAMPLES, seed)])
    kl, tokens, nats = (weights @ group[name].to_numpy(float) for name in ("kl", "tokens", "nats"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "kl": kl / count,
            "length": tokens / count,
            "perplexity": np.exp(nats / np.where(tokens > 0, tokens, np.nan)),
        }
    row: dict[str, float] = {}
    for name, values in found.items():
        low, high = central_95(values[1:])  # NaN if a draw holds no token
        row |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
