"""Steering with one crosscoder: the chat model's answers, condition by condition (see steering.py)."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.activations.pairs import Summary
from crossdiff.config import SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.interventions.changes import Change
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.interventions.steering import Condition, check_latents, conditions, directions
from crossdiff.interventions.steering_choice import Asked, candidates
from crossdiff.models.answers import answer_nats
from crossdiff.models.padding import padded
from crossdiff.models.predictions import kl_from_chat
from crossdiff.models.thoughts import said
from crossdiff.models.turns import contents, end_turns_as

log = logging.getLogger(__name__)


class Steered(NamedTuple):
    """The results of steering with one crosscoder."""

    candidates: pd.DataFrame  # from ``candidates``
    answers: pd.DataFrame  # from ``steer``


def steering(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    crosscoder: Crosscoder,
    summary: Summary,
    betas: pd.DataFrame,
    train: Asked,
    held_out: Asked,
    named: Sequence[int],
    name: str,
    top: int,
    settings: SteeringGrid,
) -> Steered:
    """Steer with the first of the ``candidates`` and with the ``named`` latents.

    ``name`` is the crosscoder's name in the config. ``train`` prompts choose, ``held_out`` ones are answered.
    ``tokenizer`` is the one that rendered them. Answers also end where its chat template ends a turn. Raises
    UserError if a named latent does not exist or never fired, and as ``candidates`` does.
    """
    check_latents(named, crosscoder, name)
    end_turns_as(chat, tokenizer)
    found = candidates(base, chat, crosscoder, summary, betas, train, top, named)
    steered = [
        direction
        for latent in found.latent[found.chosen_because.notna()]
        for direction in directions(crosscoder, betas, latent, settings)
    ]
    measured = conditions(steered, settings.strengths)
    answers = steer(base, chat, tokenizer, crosscoder.layer, held_out, measured, settings, summary.skip_first)
    return Steered(found, answers)


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

    - requests (harmful or benign, or the data set of the prompts), question
    - answer (as a reader sees it, without thoughts)
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
