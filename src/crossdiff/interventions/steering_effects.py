"""What steering does to the chat model's answers, condition by condition: refusals, KL, length and perplexity (see steering.py)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.config import SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.intervals import RESAMPLES, central_95, draw_counts, wilson
from crossdiff.interventions.patching import kl_from_chat
from crossdiff.interventions.steered_answers import Change, answer, read
from crossdiff.interventions.steering import (
    Asked,
    Condition,
    check_latents,
    conditions,
    directions,
    refusal_latents,
)
from crossdiff.models.answers import answer_nats, turn_ends
from crossdiff.models.padding import padded
from crossdiff.models.refusals import is_refusal

log = logging.getLogger(__name__)

CONDITION = ["latent", "direction", "number", "change", "strength", "norm"]


class Steered(NamedTuple):
    """What steering gives of one crosscoder."""

    candidates: pd.DataFrame  # of refusal_latents
    effects: pd.DataFrame  # of effects
    answers: pd.DataFrame  # of steer


def steering(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    tokenizer,
    crosscoder: Crosscoder,
    summary: Summary,
    betas: pd.DataFrame,
    requests_file: Mapping[str, Any],
    named: Sequence[int],
    name: str,
    top: int,
    settings: SteeringGrid,
) -> Steered:
    """Steer the most refusal-related latent and the ``named`` ones of the crosscoder that the config calls ``name``.

    ``requests_file`` is the parsed file: its training requests choose, its held-out ones measure. Raises UserError for a named latent that
    does not exist or never fired, and where no request of a kind can choose.
    """
    check_latents(named, crosscoder, name)
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
    tokenizer,
    layer: int,
    asked: Asked,
    measured: Sequence[Condition],
    settings: SteeringGrid,
    skip_first: int,
) -> pd.DataFrame:
    """One row per condition and request: the columns of the condition, and of the chat model's greedy answer

    requests (harmful or benign), question, answer (text), refused; tokens (without the end of the turn), cut (whether it reached
    ``answer_tokens``); kl: KL(p_chat || p_steered) in nats, the mean over the first tokens of the unsteered answer, which both predict;
    nats: what the base model needs for the answer's tokens, after the same prompt.
    """
    prompts, ends = [prompt.token for prompt in asked.prompt], turn_ends(chat)
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
        contents = [ids[~np.isin(ids, ends)] for ids in found.answers]
        texts = tokenizer.batch_decode(contents, skip_special_tokens=True)
        parts.append(
            pd.DataFrame(
                condition.columns()
                | {
                    "requests": asked.kind,
                    "question": asked.question,
                    "answer": texts,
                    "refused": [is_refusal(text) for text in texts],
                    "tokens": [len(ids) for ids in contents],
                    "cut": [
                        len(ids) == len(content) for ids, content in zip(found.answers, contents, strict=True)
                    ],
                    "kl": _mean_per_row(kl_from_chat(chat, expected, [own])[:, 0], counts),
                    "ids": contents,
                }
            )
        )
        log.info("%d of %d conditions", len(parts), len(measured))
    table = pd.concat(parts, ignore_index=True)
    table["nats"] = answer_nats(
        base, [prompts[row % len(prompts)] for row in range(len(table))], table.ids.tolist()
    )
    return table.drop(columns="ids").astype({"latent": "Int64", "number": "Int64"})


def _first_tokens(answers: Sequence[np.ndarray], count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` - 1 tokens of each answer, and which of its first ``count`` it has: (answers, count) bool."""
    tokens, real = padded([ids[:count] for ids in answers], width=count)
    return tokens[:, :-1], real


def _mean_per_row(values: Tensor, counts: Tensor) -> np.ndarray:
    """(rows,): mean of the ``values`` that ``counts`` (rows, positions) gives each row, in order."""
    rows = counts.nonzero()[:, 0].numpy()
    return np.bincount(rows, weights=values.cpu().numpy(), minlength=len(counts)) / np.bincount(
        rows, minlength=len(counts)
    )


def effects(answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """From the answers of ``steer`` to one row per condition and kind of request.

    Columns: those of the condition, requests; asked, refused, rate and its 95 % interval low, high (Wilson); cut (answers that reached
    the longest length); kl (mean over requests), length (mean tokens) and perplexity (under the base model: exp of all nats over all
    tokens; NaN where no answer has a token), and the 95 % bootstrap over requests of these three, *_low and *_high.
    """
    rows = []
    for condition, group in answers.groupby([*CONDITION, "requests"], sort=False, dropna=False):
        asked, refused = len(group), int(group.refused.sum())
        rate, low, high = map(float, wilson(refused, asked))
        row = dict(zip([*CONDITION, "requests"], condition, strict=True))
        row |= {
            "asked": asked,
            "refused": refused,
            "rate": rate,
            "low": low,
            "high": high,
            "cut": int(group.cut.sum()),
        }
        rows.append(row | _bootstrapped(group, seed))
    return pd.DataFrame(rows).astype({"latent": "Int64", "number": "Int64"})


def _bootstrapped(group: pd.DataFrame, seed: int) -> dict[str, float]:
    """Means over requests, and their 95 % intervals: requests drawn with replacement, the same draws for every condition."""
    count = len(group)
    weights = np.vstack(
        [np.ones(count), draw_counts(count, RESAMPLES, seed)]
    )  # the first row is the estimate itself
    kl, tokens, nats = (weights @ group[name].to_numpy(float) for name in ("kl", "tokens", "nats"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "kl": kl / count,
            "length": tokens / count,
            "perplexity": np.exp(nats / np.where(tokens > 0, tokens, np.nan)),
        }
    row = {}
    for name, values in found.items():
        low, high = central_95(values[1:])  # NaN if a draw holds no token
        row |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return row
