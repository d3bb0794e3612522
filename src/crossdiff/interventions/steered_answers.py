"""Answers of a model with a changed residual stream at one layer, for many prompts and changes at once.

Two parts of the computation do not depend on the change: all blocks up to the layer, and all positions before
the first changed one. ``read`` computes both once. ``answer`` continues from there for each change, with a
cache of keys and values. Only attention has such a cache. Other models read everything again for each token
(``_answer_by_rereading``).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from crossdiff.interventions.changes import Change, changed, changing
from crossdiff.models.answers import to_turn_end
from crossdiff.models.forward import head_logits, only_attends, resume_from_layer, run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import decoder_layers, device_of_inputs
from crossdiff.models.turns import turn_ends


class Read(NamedTuple):
    """Prompts with their follow-ups, as far as a model can read them without knowing the change.

    Blocks up to the layer have read all positions. Later blocks have read the positions before ``cut``. Of a
    model that does not only attend, nothing has been read: ``hidden`` and ``cache`` are empty.
    """

    layer: int
    ids: Tensor  # (prompts, positions): padding, prompt, follow-up
    mask: Tensor  # (prompts, positions): 0 at padding
    start: Tensor  # (prompts, 1): changes apply from this place in the sequence on, counted from 0
    hidden: Tensor  # (prompts, positions, d_model): the layer's output
    cache: list[tuple[Tensor, Tensor]]  # keys and values of every block
    cut: int  # the first position that a change can reach or that predicts
    followed: int  # number of positions of the follow-up

    @property
    def position(self) -> Tensor:
        """The place of each position in its sequence, from 0: (prompts, positions)."""
        return (self.mask.cumsum(dim=1) - 1).clamp_min(0)


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    layer: int,
    start: Sequence[int],
    follow_up: Tensor | None = None,
) -> Read:
    """Read ``prompts`` (ids), each followed by its row of ``follow_up`` (prompts, tokens) if that is given.

    A change of the output of block ``layer`` will apply from position ``start`` of each prompt on: in the
    prompt, the follow-up and the answer.
    """
    ids, mask = (part.long() for part in padded(prompts, "left"))
    width = ids.shape[1]
    follow_up = ids[:, :0] if follow_up is None else follow_up
    ids = torch.cat([ids, follow_up], dim=1).to(device_of_inputs(model))
    mask = torch.cat([mask, torch.ones_like(follow_up)], dim=1).to(device_of_inputs(model))
    cut = min(width - 1, *(width - len(prompt) + first for prompt, first in zip(prompts, start, strict=True)))
    starts = torch.tensor(start, device=device_of_inputs(model))[:, None]
    known = Read(layer, ids, mask, starts, ids, [], cut, follow_up.shape[1])
    if not only_attends(model):
        return known._replace(hidden=torch.empty(0))
    cache = DynamicCache()
    inputs = {"past_key_values": cache, "use_cache": True}
    hidden = run_to_layer(model, ids, layer, attention_mask=mask, position_ids=known.position, **inputs)
    lower = _keys_and_values(cache.layers[: layer + 1])
    cache = DynamicCache()
    inputs = {
        "past_key_values": cache,
        "use_cache": True,
        "attention_mask": mask[:, :cut],
        "position_ids": known.position[:, :cut],
    }
    upper = []
    if cut:
        resume_from_layer(model, hidden[:, :cut], ids[:, :cut], layer, **inputs)
        upper = _keys_and_values(cache.layers[layer + 1 :])
    return known._replace(hidden=hidden, cache=lower + upper)


def _keys_and_values(blocks: Iterable[object]) -> list[tuple[Tensor, Tensor]]:
    """The keys and values that each block has cached. Raises TypeError if a block has no attention."""
    found = []
    for block in blocks:
        if not isinstance(block, CacheLayerMixin) or block.keys is None or block.values is None:
            raise TypeError(f"a {type(block).__name__} holds no keys and values")
        found.append((block.keys, block.values))
    return found


class Answered(NamedTuple):
    """What a model does under one change."""

    answers: list[np.ndarray]  # the ids of each answer, up to and including the end of the turn
    # (prompts, followed + 1, d_model): last residual stream at the prompt's last token and at the follow-up
    predicting: Tensor


@torch.inference_mode()
def answer(
    model: PreTrainedModel, known: Read, changes: Sequence[Change], new_tokens: int, rows: int = 256
) -> Iterator[Answered]:
    """Answer the prompts under each change, in order, with greedy decoding of at most ``new_tokens``.

    About ``rows`` answers are generated at a time. Answers do not see the follow-up.
    """
    together = max(1, rows // len(known.ids))
    ends = torch.tensor(turn_ends(model))
    for first in range(0, len(changes), together):
        group = changes[first : first + together]
        added, removed = (
            torch.stack(part).to(device_of_inputs(model)).repeat_interleave(len(known.ids), dim=0)
            for part in zip(*group, strict=True)
        )
        answered = _answer if known.cache else _answer_by_rereading
        predicting, tokens = answered(model, known, Change(added, removed), len(group), new_tokens)
        for part, answers in zip(predicting.chunk(len(group)), tokens.cpu().chunk(len(group)), strict=True):
            yield Answered([to_turn_end(row, ends) for row in answers], part)


def _answer(
    model: PreTrainedModel, known: Read, changes: Change, copies: int, new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Last residual streams (rows, followed + 1, d_model) and answers (rows, tokens).

    The rows are all prompts, ``copies`` times. ``changes`` holds one change per row.
    """
    ids, mask, start, position = (
        part.repeat(copies, 1) for part in (known.ids, known.mask, known.start, known.position)
    )
    steered = (mask > 0) & (position >= start)
    hidden = changed(known.hidden.repeat(copies, 1, 1), changes, steered)
    cache, cut = DynamicCache(), known.cut
    inputs = {"past_key_values": cache, "use_cache": True}
    for block, read_before in enumerate(known.cache):
        keys, values = (part[:, :, :cut].repeat(copies, 1, 1, 1) for part in read_before)
        cache.update(keys, values, block)
    last = resume_from_layer(
        model,
        hidden[:, cut:],
        ids[:, cut:],
        known.layer,
        attention_mask=mask,
        position_ids=position[:, cut:],
        **inputs,
    )[:, -known.followed - 1 :]
    for block, read_before in enumerate(known.cache[: known.layer + 1]):
        keys, values = (part[:, :, cut:].repeat(copies, 1, 1, 1) for part in read_before)
        cache.update(keys, values, block)
    if known.followed:
        cache.crop(-known.followed)
        mask = mask[:, : -known.followed]
    lengths = mask.sum(dim=1, keepdim=True)
    ends = torch.tensor(turn_ends(model), device=device_of_inputs(model))
    token = head_logits(model, last[:, 0]).argmax(dim=1)
    tokens, ended = [token], torch.isin(token, ends)
    while len(tokens) < new_tokens and not ended.all():
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        place = lengths + len(tokens) - 1
        with changing(model, known.layer, changes, place >= start):
            logits = model(input_ids=token[:, None], attention_mask=mask, position_ids=place, **inputs).logits
        token = logits[:, -1].argmax(dim=1)
        tokens.append(token)
        ended |= torch.isin(token, ends)
    return last, torch.stack(tokens, dim=1)


def _answer_by_rereading(
    model: PreTrainedModel, known: Read, changes: Change, copies: int, new_tokens: int
) -> tuple[Tensor, Tensor]:
    """As ``_answer``, for any model: without a cache, it reads all tokens again for each new one.

    Padding stands on the right, where nothing before it is affected.
    """
    both = [row[real.bool()] for row, real in zip(known.ids, known.mask, strict=True)] * copies
    prompts = [row[: len(row) - known.followed] for row in both]
    start, end = known.start.repeat(copies, 1), len(decoder_layers(model)) - 1
    rows = torch.arange(len(both), device=device_of_inputs(model))[:, None]

    def last_streams(sequences: list[Tensor], back: int) -> Tensor:
        """The last residual streams at the last ``back`` tokens of each sequence, (rows, back, d_model)."""
        ids = pad_sequence(sequences, batch_first=True)
        lengths = torch.tensor([[len(sequence)] for sequence in sequences], device=device_of_inputs(model))
        place = torch.arange(ids.shape[1], device=device_of_inputs(model))
        with changing(model, known.layer, changes, (place >= start) & (place < lengths)):
            streams = run_to_layer(model, ids, end)
        return streams[rows, lengths - back + torch.arange(back, device=device_of_inputs(model))]

    last = last_streams(both, known.followed + 1)
    ends = torch.tensor(turn_ends(model), device=device_of_inputs(model))
    token = head_logits(model, last[:, 0]).argmax(dim=1)
    tokens, ended = [token], torch.isin(token, ends)
    while len(tokens) < new_tokens and not ended.all():
        said = torch.stack(tokens, dim=1)
        read_again = [torch.cat(parts) for parts in zip(prompts, said, strict=True)]
        token = head_logits(model, last_streams(read_again, 1)[:, 0]).argmax(dim=1)
        tokens.append(token)
        ended |= torch.isin(token, ends)
    return last, torch.stack(tokens, dim=1)
