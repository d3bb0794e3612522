"""Answers of a model whose residual stream is changed at one layer, for many prompts and many changes at once.

Whatever the change, blocks up to the layer see the same prompt, and all blocks see the same up to the first changed position. Both are read
once (``read``); every change goes on from there (``answer``) with a cache of keys and values.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from crossdiff.models.answers import to_turn_end, turn_ends
from crossdiff.models.forward import decoder_layers, head_logits, resume_from_layer, run_to_layer
from crossdiff.models.padding import padded


class Change(NamedTuple):
    """What becomes of the layer's output h at a steered token: h - <h, removed> removed + added. Both (d_model,) float32."""

    added: Tensor
    removed: Tensor  # a unit vector, or zero

    @classmethod
    def nothing(cls, width: int) -> "Change":
        """Leave residual streams of this width as they are."""
        return cls.add(torch.zeros(width))

    @classmethod
    def add(cls, vector: Tensor) -> "Change":
        """Add ``vector`` (d_model,)."""
        return cls(vector, torch.zeros_like(vector))

    @classmethod
    def ablate(cls, direction: Tensor) -> "Change":
        """Leave nothing of ``direction`` (d_model,), of any length."""
        return cls(torch.zeros_like(direction), direction / direction.norm())


def changed(hidden: Tensor, changes: Change, steered: Tensor) -> Tensor:
    """``hidden`` (rows, positions, d_model) with the change of its row, (rows, d_model) each, where ``steered`` (rows, positions) holds."""
    added, removed = (part[:, None] for part in changes)
    new = hidden.float()
    new = new - (new * removed).sum(dim=2, keepdim=True) * removed + added
    return torch.where(steered[..., None], new.to(hidden.dtype), hidden)


class Read(NamedTuple):
    """Prompts, and what may follow them, as a model has read them: as far as no change can reach, and all of it up to the layer."""

    layer: int
    ids: Tensor  # (prompts, positions): padding, prompt, follow-up
    mask: Tensor  # (prompts, positions): 0 at padding
    start: Tensor  # (prompts, 1): place in the sequence, from 0, from which changes hold
    hidden: Tensor  # (prompts, positions, d_model): the layer's output
    cache: list[
        tuple[Tensor, Tensor]
    ]  # keys and values of every block: up to the layer of all positions, after it of those before ``cut``
    cut: int  # the first position that a change can reach, or that predicts
    followed: int  # positions of the follow-up

    @property
    def position(self) -> Tensor:
        """(prompts, positions): place in the sequence, from 0."""
        return (self.mask.cumsum(dim=1) - 1).clamp_min(0)


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    layer: int,
    start: Sequence[int],
    follow_up: Tensor | None = None,
) -> Read:
    """Read prompts (ids), each with its row of ``follow_up`` (prompts, tokens) after it.

    Changes of the output of block ``layer`` will hold from position ``start`` of each prompt on, in prompt, follow-up and answer.
    """
    ids, mask = (part.long() for part in padded(prompts, "left"))
    width = ids.shape[1]
    follow_up = ids[:, :0] if follow_up is None else follow_up
    ids = torch.cat([ids, follow_up], dim=1).to(model.device)
    mask = torch.cat([mask, torch.ones_like(follow_up)], dim=1).to(model.device)
    cut = min(width - 1, *(width - len(prompt) + first for prompt, first in zip(prompts, start, strict=True)))
    known = Read(
        layer, ids, mask, torch.tensor(start, device=model.device)[:, None], ids, [], cut, follow_up.shape[1]
    )
    cache = DynamicCache()
    inputs = {"past_key_values": cache, "use_cache": True}
    hidden = run_to_layer(model, ids, layer, attention_mask=mask, position_ids=known.position, **inputs)
    lower = [(block.keys, block.values) for block in cache.layers[: layer + 1]]
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
        upper = [(block.keys, block.values) for block in cache.layers[layer + 1 :]]
    return known._replace(hidden=hidden, cache=lower + upper)


class Answered(NamedTuple):
    """What a model does under one change."""

    answers: list[np.ndarray]  # of each prompt, up to and including the end of the turn
    predicting: Tensor  # (prompts, followed + 1, d_model): last residual stream at the prompt's last token and at the follow-up


@torch.inference_mode()
def answer(
    model: PreTrainedModel, known: Read, changes: Sequence[Change], new_tokens: int, rows: int = 256
) -> Iterator[Answered]:
    """Greedy answers of at most ``new_tokens`` to the prompts, under each change in order; about ``rows`` answers are made at a time.

    Answers do not see the follow-up.
    """
    together = max(1, rows // len(known.ids))
    ends = torch.tensor(turn_ends(model))
    for first in range(0, len(changes), together):
        group = changes[first : first + together]
        added, removed = (
            torch.stack(part).to(model.device).repeat_interleave(len(known.ids), dim=0)
            for part in zip(*group, strict=True)
        )
        predicting, tokens = _answer(model, known, Change(added, removed), len(group), new_tokens)
        for part, answers in zip(predicting.chunk(len(group)), tokens.cpu().chunk(len(group)), strict=True):
            yield Answered([to_turn_end(row, ends) for row in answers], part)


def _answer(
    model: PreTrainedModel, known: Read, changes: Change, copies: int, new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Last residual streams (rows, followed + 1, d_model) and answers (rows, tokens); rows are all prompts, ``copies`` times."""
    ids, mask, start, position = (
        part.repeat(copies, 1) for part in (known.ids, known.mask, known.start, known.position)
    )
    steered = (mask > 0) & (position >= start)
    hidden = changed(known.hidden.repeat(copies, 1, 1), changes, steered)
    cache, cut = DynamicCache(), known.cut
    inputs = {"past_key_values": cache, "use_cache": True}
    for block, (keys, values) in enumerate(known.cache):
        cache.update(
            keys[:, :, :cut].repeat(copies, 1, 1, 1), values[:, :, :cut].repeat(copies, 1, 1, 1), block
        )
    last = resume_from_layer(
        model,
        hidden[:, cut:],
        ids[:, cut:],
        known.layer,
        attention_mask=mask,
        position_ids=position[:, cut:],
        **inputs,
    )[:, -known.followed - 1 :]
    for block, (keys, values) in enumerate(known.cache[: known.layer + 1]):
        cache.update(
            keys[:, :, cut:].repeat(copies, 1, 1, 1), values[:, :, cut:].repeat(copies, 1, 1, 1), block
        )
    if known.followed:
        cache.crop(-known.followed)
        mask = mask[:, : -known.followed]
    lengths = mask.sum(dim=1, keepdim=True)
    ends = torch.tensor(turn_ends(model), device=model.device)
    token = head_logits(model, last[:, 0]).argmax(dim=1)
    tokens, ended = [token], torch.isin(token, ends)
    while len(tokens) < new_tokens and not ended.all():
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        place = lengths + len(tokens) - 1
        with _changing(model, known.layer, changes, place >= start):
            logits = model(input_ids=token[:, None], attention_mask=mask, position_ids=place, **inputs).logits
        token = logits[:, -1].argmax(dim=1)
        tokens.append(token)
        ended |= torch.isin(token, ends)
    return last, torch.stack(tokens, dim=1)


@contextmanager
def _changing(model: PreTrainedModel, layer: int, changes: Change, steered: Tensor) -> Iterator[None]:
    """Inside, the output of block ``layer`` is changed."""

    def change(
        _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, tuple):
            return changed(output[0], changes, steered), *output[1:]
        return changed(output, changes, steered)

    handle = decoder_layers(model)[layer].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
