"""Greedy answers of a model to prompts: each token is the most likely one."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.config import TextSource
from crossdiff.errors import UserError
from crossdiff.models.forward import head_logits, only_attends, run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import HEAD_POSITIONS, decoder_layers, device_of_inputs
from crossdiff.models.replacements import as_read
from crossdiff.models.thoughts import without_thinking
from crossdiff.models.turns import turn_ends
from crossdiff.texts.chats import CONTENT, TURN_END, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.formats import ROLES, Chat, Text
from crossdiff.texts.shards import Shard
from crossdiff.texts.splits import document_id, split_texts
from crossdiff.texts.unusable import Unusable

log = logging.getLogger(__name__)


@torch.inference_mode()
def greedy(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], new_tokens: int, batch: int = 32
) -> list[np.ndarray]:
    """The ids that ``model`` adds to each prompt (tokens,), up to and including the end of its turn.

    Each answer has at most ``new_tokens`` ids. At most ``batch`` prompts run at a time. They have similar
    lengths, or equal ones if the model does not only attend (``models.forward.only_attends``).
    """
    ends = torch.tensor(turn_ends(model))
    # A copy with the same weights gets settings of its own. Otherwise generate() would take settings that are
    # missing here from the model, such as a repetition penalty. PreTrainedModel does not declare generate().
    plain: Any = copy(model)
    plain.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=ends.tolist() or None,
        pad_token_id=int(ends[0]) if len(ends) else 0,
    )
    found: dict[int, np.ndarray] = {}
    for group in _together([len(prompt) for prompt in prompts], batch, pad=only_attends(model)):
        ids, real = padded([prompts[i] for i in group], "left")
        asked = (part.to(device_of_inputs(model)) for part in (ids, real.long()))
        inputs = dict(zip(("input_ids", "attention_mask"), asked, strict=True))
        new = plain.generate(**inputs)[:, ids.shape[1] :].cpu()
        for i, row in zip(group, new, strict=True):
            found[i] = to_turn_end(row, ends)
        log.info("%d of %d answers", len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


def _together(lengths: Sequence[int], batch: int, pad: bool) -> Iterator[list[int]]:
    """Numbers of sequences in groups of at most ``batch``, by length. Without ``pad``, of equal lengths."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for _, alike in groupby(order, key=lambda i: None if pad else lengths[i]):
        numbers = list(alike)
        yield from (numbers[first : first + batch] for first in range(0, len(numbers), batch))


def to_turn_end(answer: Tensor, ends: Tensor) -> np.ndarray:
    """The ``answer`` (tokens,) up to and including the first of ``ends``, or all of it if it has none."""
    end = torch.isin(answer, ends).nonzero()
    return answer[: int(end[0]) + 1 if len(end) else None].numpy()


@torch.inference_mode()
def answer_nats(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], batch: int = 128
) -> np.ndarray:
    """-log p in nats of each answer after its prompt, summed over the answer's tokens: (answers,) float64.

    An empty answer has 0. Prompts and answers are ids, (tokens,) each. Equal prompts are read once, and so
    are equal pairs of prompt and answer.
    """
    prompts, answers = ([as_read(model, ids) for ids in part] for part in (prompts, answers))
    number: dict[bytes, int] = {}
    prompt_of = [number.setdefault(prompt.tobytes(), len(number)) for prompt in prompts]
    distinct = {prompt_of[row]: prompt for row, prompt in enumerate(prompts)}
    pair_of = [(prompt, said.tobytes()) for prompt, said in zip(prompt_of, answers, strict=True)]
    pairs = {pair: row for row, pair in enumerate(pair_of)}
    nonempty = [row for row in pairs.values() if len(answers[row])]
    order = sorted(nonempty, key=lambda row: (len(answers[row]), row))
    found = np.zeros(len(answers))
    if order and not only_attends(model):
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            found[group] = _nats_of_whole(
                model, [prompts[row] for row in group], [answers[row] for row in group]
            )
    elif order:
        in_order = [distinct[prompt] for prompt in range(len(distinct))]
        ids, mask = (part.long().to(device_of_inputs(model)) for part in padded(in_order, "left"))
        cache = DynamicCache()
        position = (mask.cumsum(dim=1) - 1).clamp_min(0)
        layer = len(decoder_layers(model)) - 1
        inputs = {
            "attention_mask": mask,
            "position_ids": position,
            "past_key_values": cache,
            "use_cache": True,
        }
        last = run_to_layer(model, ids, layer, **inputs)[:, -1:]
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            chosen = torch.tensor([prompt_of[row] for row in group], device=ids.device)
            read = [(keys[to], values[to]) for keys, values, _ in cache for to in [chosen.to(keys.device)]]
            found[group] = _nats(model, mask[chosen], read, last[chosen], [answers[row] for row in group])
    return np.array([found[pairs[pair]] for pair in pair_of])


def _nats_of_whole(
    model: PreTrainedModel, prompts: list[np.ndarray], answers: list[np.ndarray]
) -> np.ndarray:
    """-log p in nats of each answer after its prompt, (answers,). Every prompt is read with its answer."""
    whole = [np.concatenate(both) for both in zip(prompts, answers, strict=True)]
    ids, real = padded(whole)
    said = real & (torch.arange(ids.shape[1]) >= torch.tensor([[len(prompt)] for prompt in prompts]))
    residual = run_to_layer(model, ids.to(device_of_inputs(model)), len(decoder_layers(model)) - 1)
    return _summed(model, residual[:, :-1][said[:, 1:].to(device_of_inputs(model))], ids[said], said)


def _nats(
    model: PreTrainedModel,
    mask: Tensor,
    read: list[tuple[Tensor, Tensor]],
    last: Tensor,
    answers: list[np.ndarray],
) -> np.ndarray:
    """-log p in nats of each answer after its prompt, (answers,).

    The prompts have been read already. ``mask`` (answers, positions) tells which of their positions are real.
    ``read`` holds the keys and values of every block. ``last`` (answers, 1, d_model) is the last block's
    residual stream at the last position.
    """
    ids, real = padded(answers)
    residual, longest = last, ids.shape[1]
    if longest > 1:
        cache, asked = DynamicCache(), ids[:, :-1].to(device_of_inputs(model))
        for block, (keys, values) in enumerate(read):
            cache.update(keys, values, block)
        position = mask.sum(dim=1, keepdim=True) + torch.arange(longest - 1, device=device_of_inputs(model))
        inputs = {
            "attention_mask": torch.cat([mask, torch.ones_like(asked)], dim=1),
            "position_ids": position,
        }
        after = run_to_layer(model, asked, len(read) - 1, past_key_values=cache, use_cache=True, **inputs)
        residual = torch.cat([last, after], dim=1)
    return _summed(model, residual[real.to(device_of_inputs(model))], ids[real], real)


def _summed(model: PreTrainedModel, residual: Tensor, targets: Tensor, said: Tensor) -> np.ndarray:
    """-log p in nats of ``targets`` (tokens,), summed over each row of ``said``: (rows,).

    ``residual`` (tokens, d_model) predicts them. They stand at the true places of ``said`` (rows, positions).
    """
    targets = targets.to(device_of_inputs(model))
    nats = [
        functional.cross_entropy(head_logits(model, part).float(), wanted, reduction="none")
        for part, wanted in zip(residual.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True)
    ]
    return np.bincount(
        said.nonzero()[:, 0].numpy(), weights=torch.cat(nats).double().cpu().numpy(), minlength=len(said)
    )


def openings(
    source: TextSource,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    longest: int,
    archive: str | None = None,
    split: str = "validation",
    key: str = "causal.conversations",
) -> list[tuple[int, TokenSequence]]:
    """The first ``count`` different openings of a data set's chats of one split: (document id, sequence).

    An opening is a chat up to its first user turn. The sequence ends with the header of an assistant's turn,
    so that a model can answer. Thinking is switched off if the template can do so. Openings of more than
    ``longest`` tokens are left out, and so are those that the template refuses.

    Raises UserError if the data set does not hold chats, or has fewer than ``count`` such openings, a
    value of ``key``.
    """
    if source.kind != "chats":
        raise UserError(f"datasets.{name}.kind: found {source.kind}, prompts are taken from chats")
    tokenizer, _ = without_thinking(tokenizer)
    found: dict[int, TokenSequence] = {}
    refused: Counter[str] = Counter()
    for number, _, text in split_texts(source, name, split, archive):
        opening = _opening(text)
        document = document_id(opening)
        if not opening or document in found:
            continue
        try:
            sequence = chat_sequence(opening, tokenizer, f"dataset {name}, chat {number}", ask=True)
        except Unusable as problem:  # counted where the texts become tokens
            refused[problem.reason] += 1
            continue
        if len(sequence.token) <= longest:
            found[document] = sequence
        if len(found) == count:
            return list(found.items())
    have = f"the {split} chats of {name} have {len(found)} different openings of {longest} tokens or less"
    for reason, times in refused.most_common(1):
        have += f"; {refused.total()} can't be used, most often: {reason} ({times} x)"
    raise UserError(f"{key}: found {count}, {have}")


def _opening(chat: Text) -> Chat:
    """A chat up to its first user turn. Empty if it has none, or is a document."""
    if isinstance(chat, str):
        return Chat([])
    for number, turn in enumerate(chat):
        if turn["role"] == "user":
            return Chat(chat[: number + 1], chat.tools)
    return Chat([])


def answered(model: PreTrainedModel, asked: Sequence[tuple[int, TokenSequence]], new_tokens: int) -> Shard:
    """Openings, each followed by the answer of ``model``, as one sequence each, in the order of ``asked``.

    An answer that is cut after ``new_tokens`` tokens has no turn end.
    """
    answers = greedy(model, [prompt.token for _, prompt in asked], new_tokens)
    pairs = zip(asked, answers, strict=True)
    return Shard.of([(document, _with(prompt, answer, model)) for (document, prompt), answer in pairs])


def _with(prompt: TokenSequence, answer: np.ndarray, model: PreTrainedModel) -> TokenSequence:
    template = np.full(len(answer), CONTENT, np.int8)
    template[np.isin(answer, turn_ends(model))] = (
        TURN_END  # at most the last token, because greedy stops there
    )
    role = np.full(len(answer), ROLES.index("assistant"), np.int8)
    return TokenSequence(
        np.concatenate([prompt.token, answer.astype(np.int32)]),
        np.concatenate([prompt.role, role]),
        np.concatenate([prompt.template, template]),
    )
