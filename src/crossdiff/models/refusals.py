"""Count how often a model refuses harmful and benign requests that are in no training text.

Answers are never stored. Each is generated up to a few tokens, judged and dropped.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.config.yaml_files import read_yaml
from crossdiff.errors import UserError
from crossdiff.intervals import wilson
from crossdiff.models.answers import greedy
from crossdiff.models.files import has_tokenizer
from crossdiff.models.thoughts import Said, said, without_thinking
from crossdiff.models.tokenizers import load_dated_tokenizer
from crossdiff.models.turns import contents, end_turns_as
from crossdiff.texts.behaviours import is_refusal
from crossdiff.texts.chats import chat_sequence
from crossdiff.texts.formats import requests
from crossdiff.texts.unusable import Unusable

log = logging.getLogger(__name__)

KINDS = ("harmful", "benign")  # the kinds of requests


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    new_tokens: int,
    batch: int = 32,
) -> list[Said]:
    """The model's greedy answers to questions that the tokenizer's chat template renders, as a reader sees
    them.

    Each has at most ``new_tokens`` tokens, thoughts included. ``batch`` questions run at a time. Raises
    UserError if the template refuses a user's turn alone, or does not show its words.
    """
    chats = [[{"role": "user", "content": question}] for question in questions]
    ids = [
        chat_sequence(chat, tokenizer, f"request {chat[0]['content']!r}", ask=True).token for chat in chats
    ]
    return said(ids, contents(greedy(model, ids, new_tokens, batch), model), tokenizer)


def tokenizer_for_base(
    folder: str | Path, pair: PreTrainedTokenizerBase, day: date
) -> PreTrainedTokenizerBase:
    """The base model's own tokenizer, for which it is always ``day``. Or the pair's, if the base has none
    with a chat template, as raw models do.

    Raises UserError for a folder without a usable tokenizer.
    """
    own = load_dated_tokenizer(folder, day) if has_tokenizer(folder) else None
    return own if own and own.chat_template else pair


def read_requests(path: str | Path) -> dict[str, Any]:
    """Read and parse the requests file.

    Raises UserError if it is missing, malformed, names a request twice or has no held-out requests.
    """
    requests_file = read_yaml(path)
    if not isinstance(requests_file, dict):
        allowed = "a mapping with phrasings, refusals, harmful and benign"
        raise UserError(f"{path}: found {type(requests_file).__name__}, allowed: {allowed}")
    if not any(True for _ in requests(requests_file, "held_out", str(path))):
        raise UserError(f"{path}: no held_out requests to measure with")
    return requests_file


def questions(requests_file: Mapping[str, Any], kind: str, part: str, phrasings: int) -> list[str]:
    """The requests of one ``kind`` and ``part`` (train, held_out), each in the first ``phrasings`` phrasings.

    ``requests_file`` is the parsed file. Raises UserError as ``texts.formats.requests`` does.
    """
    empty = {"harmful": {part: []}, "benign": {part: {}}}
    first = requests_file["phrasings"][:phrasings]
    asked = {**requests_file, "phrasings": first, **empty, kind: requests_file[kind]}
    return [chat[0]["content"] for chat in requests(asked, part, "requests")]


def refusal_rates(
    models: Iterable[tuple[str, PreTrainedModel, PreTrainedTokenizerBase]],
    requests_file: Mapping[str, Any],
    phrasings: int,
    new_tokens: int,
) -> pd.DataFrame:
    """A table with one row per model and kind of held-out request.

    Its columns are:

    - model, requests (the kind)
    - asked, refused: numbers of requests
    - rate: refused / those whose answer leaves its thought; low and high, the ends of its 95 % interval
      (Wilson)
    - unfinished: number of answers that are nothing but a thought, which no reader can judge
    - thinking: off if the chat template switches it off, stripped if thoughts were left out of answers, else
    none

    ``models`` gives (name, model, tokenizer). Of the parsed ``requests_file``, the first ``phrasings``
    phrasings are used. Answers also end where the tokenizer's chat template ends a turn.
    """
    rows = []
    for name, model, tokenizer in models:
        asker, argument = without_thinking(tokenizer)
        end_turns_as(model, asker)
        for kind in KINDS:
            asked = questions(requests_file, kind, "held_out", phrasings)
            try:
                found = answers(model, asker, asked, new_tokens)
            except Unusable as problem:
                raise UserError(f"behaviour: {name} can't be asked: {problem}") from problem
            refused = sum(is_refusal(answer.text) for answer in found)
            unfinished = sum(answer.unfinished for answer in found)
            stripped = "stripped" if any(answer.thought for answer in found) else "none"
            row = {"model": name, "requests": kind, "asked": len(asked), "refused": refused}
            row |= _rate(refused, len(asked) - unfinished) | {"unfinished": unfinished}
            rows.append(row | {"thinking": "off" if argument and stripped == "none" else stripped})
            log.info("%s: refused %d of %d %s requests", name, refused, len(asked), kind)
            if unfinished:
                thinks = "answers are nothing but a thought and are not judged; raise behaviour.answer_tokens"
                log.warning("%s: %d of %d %s", name, unfinished, len(asked), thinks)
        del model  # before the next one is loaded
    return pd.DataFrame(rows)


def _rate(refused: int, judged: int) -> dict[str, float]:
    return dict(zip(("rate", "low", "high"), map(float, wilson(refused, judged)), strict=True))
