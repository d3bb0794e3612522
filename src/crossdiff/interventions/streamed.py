"""One prompt under several changes at once: an answer token by token, and what changes in all predictions."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from crossdiff.interventions.changes import Change, changed, changing
from crossdiff.models.forward import head_logits, only_attends, resume_from_layer, run_to_layer
from crossdiff.models.parts import decoder_layers, device_of_inputs
from crossdiff.models.predictions import kl_from_chat, log_probabilities
from crossdiff.models.turns import turn_ends

SMALL = 1e-4  # a direction with less than this share of its length left after projection adds nothing


def together(changes: Sequence[Change]) -> list[Change]:
    """The changes to apply one after another, so that all of ``changes`` hold at once.

    The span of all ablated directions is removed first, by an orthonormal basis of it. Then the sum of all
    added vectors is added. So what one change adds is not removed by another, and the order does not matter.
    """
    basis: list[Tensor] = []
    for direction in (change.removed.double() for change in changes):
        rest = direction
        for _ in range(2):  # twice, because the first time leaves rounding errors
            for other in basis:
                rest = rest - (rest @ other) * other
        if rest.norm() > SMALL * direction.norm():
            basis.append(rest / rest.norm())
    found = [Change.ablate(direction.float()) for direction in basis]
    added = [change.added for change in changes if change.added.any()]
    return [*found, Change.add(torch.stack(added).sum(dim=0))] if added else found


@torch.inference_mode()
def answer_stream(
    model: PreTrainedModel,
    prompt: np.ndarray,
    layer: int,
    changes: Sequence[Change],
    start: int,
    new_tokens: int,
) -> Iterator[int]:
    """The ids of a greedy answer to ``prompt`` (ids), one by one, up to and including the end of the turn.

    ``changes`` (``together``) apply to the output of block ``layer``, from position ``start`` of the prompt
    on and in the answer. A model that does not only attend reads everything again for each token.
    """
    device, ends = device_of_inputs(model), turn_ends(model)
    last = len(decoder_layers(model)) - 1
    cache = DynamicCache() if only_attends(model) else None
    ids, first = torch.from_numpy(prompt).long().to(device)[None], 0
    for _ in range(new_tokens):
        place = torch.arange(first, first + ids.shape[1], device=device)[None]
        inputs = {} if cache is None else {"past_key_values": cache, "use_cache": True, "position_ids": place}
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(changing(model, layer, _one_row(change), place >= start))
            hidden = run_to_layer(model, ids, last, **inputs)
        token = head_logits(model, hidden[:, -1]).argmax(dim=1)
        yield int(token)
        if int(token) in ends:
            return
        if cache is None:
            ids = torch.cat([ids, token[None]], dim=1)
        else:
            first, ids = first + ids.shape[1], token[None]


def _one_row(change: Change) -> Change:
    return Change(*(part[None] for part in change))


class Known(NamedTuple):
    """A prompt as far as the model reads it without knowing the changes."""

    ids: Tensor  # (1, positions)
    hidden: Tensor  # (1, positions, d_model): the layer's output
    own: Tensor  # (positions, d_model): the unchanged last residual stream


class Effect(NamedTuple):
    """What changes do to the predictions of one prompt."""

    kl: np.ndarray  # (positions,): KL(p_chat || p_changed) in nats of each next token
    before: Tensor  # (vocabulary,): the unchanged probabilities of the token after the prompt
    after: Tensor  # (vocabulary,): the changed ones


@torch.inference_mode()
def known_prompt(model: PreTrainedModel, prompt: np.ndarray, layer: int) -> Known:
    """Read ``prompt`` (ids) once for any number of ``effect``."""
    ids = torch.from_numpy(prompt).long().to(device_of_inputs(model))[None]
    hidden = run_to_layer(model, ids, layer)
    return Known(ids, hidden, resume_from_layer(model, hidden, ids, layer)[0])


@torch.inference_mode()
def effect(model: PreTrainedModel, known: Known, layer: int, changes: Sequence[Change], start: int) -> Effect:
    """The effect of ``changes`` (``together``) at block ``layer``, from position ``start`` on."""
    steered = torch.arange(known.ids.shape[1], device=known.ids.device)[None] >= start
    hidden = known.hidden
    for change in changes:
        hidden = changed(hidden, _one_row(change), steered)
    last = resume_from_layer(model, hidden, known.ids, layer)[0] if changes else known.own
    kl = kl_from_chat(model, known.own, [last])[:, 0].clamp_min(0)
    before, after = (log_probabilities(model, part[-1:])[0].exp().cpu() for part in (known.own, last))
    return Effect(kl.cpu().numpy(), before, after)
