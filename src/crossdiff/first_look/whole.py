"""The whole first look at a pair: its tables, from one pass over a sample and a few conversations."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.config import FirstLook
from crossdiff.first_look import layers, mean_differences, topics, where
from crossdiff.first_look.passes import Measured, one_pass
from crossdiff.first_look.sample import Place, Prompt, Sample, places
from crossdiff.models.answers import greedy
from crossdiff.models.turns import contents, end_turns_as

log = logging.getLogger(__name__)

OF_TOPIC = 3  # contexts of each topic
PATCHED = 4  # conversations that the base's activations are patched into


class FirstLookTables(NamedTuple):
    """What is written, by the names of the files."""

    layers: pd.DataFrame
    where: pd.DataFrame
    contexts: pd.DataFrame
    mean_differences: pd.DataFrame
    promoted: pd.DataFrame
    topics: pd.DataFrame
    answers: pd.DataFrame
    summary: dict[str, Any]


def first_look(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    prompts: Sequence[Prompt],
    settings: FirstLook,
    batch_tokens: int,
    seconds: dict[str, float] | None = None,
) -> FirstLookTables:
    """Take the first look at two models.

    ``sample`` is the text of the one pass, ``prompts`` are what both models answer, perhaps none. ``seconds``
    gets how long each part took. Raises UserError for a token that a model can't read.
    """
    seconds = {} if seconds is None else seconds
    for model in (base, chat):
        end_turns_as(model, tokenizer)
    which, place_of = places(sample.shard)
    with _timed(seconds, "one pass of both models"):
        measured = one_pass(base, chat, sample.shard, place_of, len(which), batch_tokens)
    with _timed(seconds, "answers of both models"):
        asked = [prompt.token for prompt in prompts]
        own = [greedy(model, asked, settings.answer_tokens) if asked else [] for model in (base, chat)]
    with _timed(seconds, "patching the base's activations"):
        patched = layers.patched_kl(base, chat, asked[:PATCHED], own[1][:PATCHED]) if asked else {}
    table = layers.layer_table(measured, sample.shard)
    table["kl_patched"] = table.layer.map(patched).astype(float)
    suggested = layers.suggest(table)
    median = float(table.norm_chat[suggested.layer])
    counts = np.bincount(place_of[place_of >= 0], minlength=len(which))
    with _timed(seconds, "mean differences"):
        means = measured.means[suggested.layer]
        differences = mean_differences.difference_table(chat, means, which, counts, median)
    with _timed(seconds, "answers with a mean difference added"):
        steered = _steered(chat, differences, means, which, prompts, suggested.layer, median, settings)
    with _timed(seconds, "topics"):
        found, weights = topics.topics(measured.promoted, measured.promoted_by)
    sets = {f"topic {number}": weights[:, number - 1] for number in found.topic}
    strongest = [
        where.contexts({"kl": measured.kl}, measured, sample, where.CONTEXTS),
        where.contexts(sets, measured, sample, OF_TOPIC),
    ]
    models = [contents(answers, model) for answers, model in zip(own, (base, chat), strict=True)]
    return FirstLookTables(
        layers=table,
        where=where.where_table(measured.kl, sample),
        contexts=pd.concat([part for part in strongest if len(part)] or strongest[:1], ignore_index=True),
        mean_differences=differences,
        promoted=topics.promoted_table(measured.promoted, measured.promoted_by),
        topics=found,
        answers=_answers(
            dict(zip(("base", "chat"), models, strict=True)) | steered[1], steered[0], prompts, tokenizer
        ),
        summary=_summary(measured, sample, table, suggested, len(prompts)),
    )


def _steered(
    chat: PreTrainedModel,
    table: pd.DataFrame,
    means: np.ndarray,
    which: Sequence[Place],
    prompts: Sequence[Prompt],
    layer: int,
    median: float,
    settings: FirstLook,
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Answers to the first prompts with nothing added, and condition -> answers with a direction added.

    Both are made in one batch. So they differ by what is added, and not by how a batch rounds.
    """
    rows = mean_differences.strongest_of_each_kind(table)
    asked = [prompt.token for prompt in prompts[: mean_differences.STEERED]]
    if not asked or not rows or not means[rows].any():
        return [], {}
    added = {which[row].kind: torch.from_numpy(means[row]) for row in rows}
    found = mean_differences.steered_answers(chat, asked, added, layer, median, settings.answer_tokens)
    return found[0].answers, {steered.condition: steered.answers for steered in found[1:]}


def _answers(
    conditions: Mapping[str, Sequence[np.ndarray]],
    unchanged: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
) -> pd.DataFrame:
    """Answers as text. ``changed``: whether an answer is not the chat model's.

    Those with something added are compared with the ``unchanged`` ones of the same batch.
    """
    own = dict.fromkeys(("base", "chat"), conditions["chat"])
    rows = [
        {
            "prompt": number,
            "dataset": prompts[number].dataset,
            "prompt_text": tokenizer.decode(prompts[number].token),
            "condition": condition,
            "answer": tokenizer.decode(answer),
            "changed": not np.array_equal(answer, own.get(condition, unchanged)[number]),
        }
        for condition, answers in conditions.items()
        for number, answer in enumerate(answers)
    ]
    columns = ["prompt", "dataset", "prompt_text", "condition", "answer", "changed"]
    return pd.DataFrame(rows, columns=columns)


def _summary(
    measured: Measured, sample: Sample, table: pd.DataFrame, suggested: layers.Suggested, conversations: int
) -> dict[str, Any]:
    return {
        "tokens": len(measured.kl),
        "sequences": len(sample.shard.sequence_starts()),
        "conversations": conversations,
        "kl": float(measured.kl.mean()),
        "largest_difference": float(table.relative_difference.max()),
        "equal": layers.are_equal(table, measured.kl),
        "suggested_layer": suggested.layer,
        "reason": suggested.reason,
        "strength": mean_differences.STRENGTH,
    }


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[part] = time.monotonic() - start
    log.info("%s: %.1f s", part, seconds[part])
