"""Answers of a model to prompts, greedy: always its own most likely token."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from crossdiff.config import TextSource
from crossdiff.errors import UserError
from crossdiff.models.forward import decoder_layers, head_logits, run_to_layer
from crossdiff.texts.chats import CONTENT, TURN_END, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.formats import ROLES, Turn
from crossdiff.texts.shards import Shard, document_id, split_texts

log = logging.getLogger(__name__)

POSITIONS = 512  # whose logits are held at a time


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompts: Sequence[np.ndarray], new_tokens: int, batch: int = 32) -> list[np.ndarray]:
    """The ids that ``model`` adds to each prompt (ids): at most ``new_tokens``, up to and including the end of its turn.

    ``batch`` prompts of similar length run at a time.
    """
    ends = torch.tensor(turn_ends(model))
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    found: dict[int, np.ndarray] = {}
    for first in range(0, len(order), batch):
        group = order[first : first + batch]
        ids, mask = padded_left([prompts[i] for i in group])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=int(ends[0]) if len(ends) else 0,
        )[:, ids.shape[1] :].cpu()
        for i, row in zip(group, output, strict=True):
            found[i] = to_turn_end(row, ends)
        log.info("%d of %d answers", len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


def turn_ends(model: PreTrainedModel) -> list[int]:
    """The tokens that end a turn of ``model``."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def to_turn_end(answer: Tensor, ends: Tensor) -> np.ndarray:
    """``answer`` (tokens,) up to and including the first of ``ends``, if there is one."""
    end = torch.isin(answer, ends).nonzero()
    return answer[: int(end[0]) + 1 if len(end) else None].numpy()


def padded_left(prompts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Ids and mask (1 where no padding), (prompts, positions)."""
    width = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


@torch.inference_mode()
def answer_nats(model: PreTrainedModel, prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], batch: int = 64) -> np.ndarray:
    """(answers,) float64: -log p of all tokens of each answer after its prompt, in nats. Equal pairs are read once."""
    keys = [(prompt.tobytes(), answer.tobytes()) for prompt, answer in zip(prompts, answers, strict=True)]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    order = sorted((row for row in first.values() if len(answers[row])), key=lambda row: (len(prompts[row]) + len(answers[row]), row))
    found = np.zeros(len(keys))
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        found[group] = _nats(model, [prompts[row] for row in group], [answers[row] for row in group])
    return found[[first[key] for key in keys]]


def _nats(model: PreTrainedModel, prompts: list[np.ndarray], answers: list[np.ndarray]) -> np.ndarray:
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids, predicting = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        both = np.concatenate([prompt, answer])
        ids[row, : len(both)] = torch.from_numpy(both)
        predicting[row, len(prompt) - 1 : len(both) - 1] = True
    residual = run_to_layer(model, ids.to(model.device), len(decoder_layers(model)) - 1)[predicting.to(model.device)]
    targets = ids.roll(-1, dims=1)[predicting].to(model.device)
    nats = [
        functional.cross_entropy(head_logits(model, part).float(), wanted, reduction="none")
        for part, wanted in zip(residual.split(POSITIONS), targets.split(POSITIONS), strict=True)
    ]
    rows = predicting.nonzero()[:, 0].numpy()
    return np.bincount(rows, weights=torch.cat(nats).double().cpu().numpy(), minlength=len(prompts))


def openings(
    source: TextSource, name: str, tokenizer, count: int, longest: int, archive: str | None = None
) -> list[tuple[int, TokenSequence]]:
    """The first ``count`` different openings of a data set's validation chats, with their document ids, each ready for an answer.

    An opening is a chat up to its first user turn. Those of more than ``longest`` tokens are left out. Raises UserError when there are
    fewer than ``count``.
    """
    if source.kind != "chats":
        raise UserError(f"datasets.{name}.kind: found {source.kind}, prompts are taken from chats")
    found: dict[int, TokenSequence] = {}
    for number, _, chat in split_texts(source, name, "validation", archive):
        opening = _opening(chat)
        document = document_id(opening)
        if not opening or document in found:
            continue
        sequence = chat_sequence(opening, tokenizer, f"dataset {name}, chat {number}", ask=True)
        if len(sequence.token) <= longest:
            found[document] = sequence
        if len(found) == count:
            return list(found.items())
    have = f"the validation chats of {name} have {len(found)} different openings of {longest} tokens or less"
    raise UserError(f"causal.conversations: found {count}, {have}")


def _opening(chat: list[Turn]) -> list[Turn]:
    for number, turn in enumerate(chat):
        if turn["role"] == "user":
            return chat[: number + 1]
    return []


def answered(model: PreTrainedModel, asked: Sequence[tuple[int, TokenSequence]], new_tokens: int) -> Shard:
    """Openings with the answers of ``model``, one sequence each, in order. An answer that reaches ``new_tokens`` has no turn end."""
    answers = greedy(model, [prompt.token for _, prompt in asked], new_tokens)
    return Shard.of([(document, _with(prompt, answer, model)) for (document, prompt), answer in zip(asked, answers, strict=True)])


def _with(prompt: TokenSequence, answer: np.ndarray, model: PreTrainedModel) -> TokenSequence:
    template = np.full(len(answer), CONTENT, np.int8)
    template[np.isin(answer, turn_ends(model))] = TURN_END  # its last token, if any: greedy stops there
    role = np.full(len(answer), ROLES.index("assistant"), np.int8)
    return TokenSequence(
        np.concatenate([prompt.token, answer.astype(np.int32)]),
        np.concatenate([prompt.role, role]),
        np.concatenate([prompt.template, template]),
    )
