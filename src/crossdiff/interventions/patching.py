"""Patching (docs/method.md 12): a patched activation at the layer goes through the rest of the chat model.

The patched activation is formed from both models' activations. The predictions are compared with those of the
chat model itself.

Scale. The crosscoder sees (x_m - mean_m) scale_m. So on the scale of the raw activation x_m its
reconstruction is xhat_m = sum_j f_j d_j^m + b^m.
Here d_j^m = decoder_j^m / scale_m, and b^m = decoder_bias_m / scale_m + mean_m.
All patched runs use the raw scale:

- none: x_base
- template: x_chat at template tokens, x_base elsewhere
- a set S of latents, subtraction form: x_base + sum_{j in S} f_j (d_j^chat - d_j^base)
- a set S of latents, additive form: x_base + sum_{j in S} f_j d_j^chat
- all: xhat_chat + (x_base - xhat_base) = the subtraction form of all latents + (b^chat - b^base)
- bias: x_base + (b^chat - b^base), the part of "all" that belongs to no latent. If activations are centred,
  it contains the difference of their means.
- error: xhat_base + (x_chat - xhat_chat) = x_base + x_chat - all

The crosscoder was not trained on the first tokens of a sequence and on outliers, and it says nothing about
them. The whole activation is error there: every set, "all" and "bias" give x_base, and "error" gives x_chat.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.harvest import length_batches
from crossdiff.activations.pairs import Summary
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active, Places, weighted_rows
from crossdiff.models.forward import resume_from_layer, run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.predictions import kl_from_chat
from crossdiff.models.replacements import check_ids
from crossdiff.texts.chats import CONTENT
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

ROWS = 2048  # tokens encoded at a time
BATCHES = 8  # at least this many: if all conversations were in one batch, most of it would be padding

WHOLE = ("none", "all", "error", "template", "bias")  # patched runs that no set of latents defines
FORMS = ("subtraction", "additive")  # of a set of latents


class Variant(NamedTuple):
    """One patched run. ``form`` and ``latents`` (ids) are None for the runs of ``WHOLE``."""

    name: str
    form: str | None = None
    latents: np.ndarray | None = None


class EncodedTokens(NamedTuple):
    """Both models' activations of some tokens, encoded once for all patched runs."""

    base: Tensor  # (tokens, d_model) float32
    chat: Tensor
    active: Active  # codes; there are none at tokens that do not count
    counts: Tensor  # (tokens,) bool: whether the crosscoder says something about the token
    template: Tensor  # (tokens,) bool: whether it is a template token


class Patcher:
    """Forms patched activations with one crosscoder."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        self.crosscoder = crosscoder
        base, chat = (crosscoder.decoder / crosscoder.scale[:, None]).unbind(1)
        bias = crosscoder.decoder_bias / crosscoder.scale[:, None] + crosscoder.mean
        bias_base, bias_chat = bias.unbind(0)
        # (latents, d_model) each
        self.base, self.chat, self.difference = base.contiguous(), chat.contiguous(), chat - base
        self.bias_difference = bias_chat - bias_base  # (d_model,)

    def encode(self, base: Tensor, chat: Tensor, counts: Tensor, template: Tensor) -> EncodedTokens:
        """Encode raw activations (tokens, d_model) of any dtype.

        ``counts`` and ``template`` are the masks (tokens,) of ``EncodedTokens``.
        """
        base, chat = base.float(), chat.float()
        parts = [self._codes(base, chat, rows) for rows in counts.nonzero().squeeze(1).split(ROWS)]
        rows, latents, values = (torch.cat(column) for column in zip(*parts, strict=True))
        active = Active(Places(rows, latents, (len(base), self.crosscoder.latents)), values)
        return EncodedTokens(base, chat, active, counts, template)

    def _codes(self, base: Tensor, chat: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.crosscoder.normalise(torch.stack([base[rows], chat[rows]], dim=1))
        active = self.crosscoder.active(x)
        return rows[active.rows], active.latents, active.values

    def patched(self, tokens: EncodedTokens, variant: Variant) -> Tensor:
        """The patched activation of a variant, (tokens, d_model) float32, as defined above in this module."""
        match variant.name:
            case "none":
                return tokens.base
            case "template":
                return torch.where(tokens.template[:, None], tokens.chat, tokens.base)
            case "bias":
                return tokens.base + self._bias(tokens)
            case "all":
                return tokens.base + self._change(tokens)
            case "error":
                return tokens.chat - self._change(tokens)
        chosen = torch.zeros(self.crosscoder.latents, dtype=torch.bool, device=tokens.base.device)
        chosen[torch.tensor(variant.latents, device=chosen.device)] = True
        return tokens.base + self._latents(tokens.active.keep(chosen[tokens.active.latents]), variant.form)

    def _latents(self, active: Active, form: str | None) -> Tensor:
        """What the entries of ``active`` add to the base activation."""
        if form == "subtraction" and not self.crosscoder.decoupled:
            return weighted_rows(self.difference, active)
        of_base, of_chat = (
            active._replace(values=values) for values in self.crosscoder.values_per_model(active)
        )
        added = weighted_rows(self.chat, of_chat)
        return added - weighted_rows(self.base, of_base) if form == "subtraction" else added

    def _bias(self, tokens: EncodedTokens) -> Tensor:
        return tokens.counts[:, None] * self.bias_difference

    def _change(self, tokens: EncodedTokens) -> Tensor:
        """xhat_chat - xhat_base."""
        return self._latents(tokens.active, "subtraction") + self._bias(tokens)


class Batch(NamedTuple):
    """Some conversations, padded on the right."""

    ids: Tensor  # (conversation, position)
    real: np.ndarray  # flat places that are not padding, in order
    rows: np.ndarray  # their rows in the shard
    predicting: np.ndarray  # flat places that predict a wanted token
    predicted: np.ndarray  # the rows of the wanted tokens


def conversation_batches(shard: Shard, wanted: np.ndarray, batch_tokens: int) -> list[Batch]:
    """Put all sequences of a shard into batches of at most ``batch_tokens`` padded tokens, longest first.

    ``wanted`` (rows,) bool marks the tokens whose prediction is asked for.
    """
    (starts, stops), total = shard.sequence_bounds(), len(shard.token)
    batches = []
    for group in length_batches(stops - starts, min(batch_tokens, total // BATCHES)):
        ranges = [np.arange(starts[sequence], stops[sequence]) for sequence in group]
        rows, real = (part.numpy() for part in padded(ranges))
        next_wanted = np.zeros_like(real)
        next_wanted[:, :-1] = real[:, 1:] & wanted[rows[:, 1:]]
        ids = torch.from_numpy(np.where(real, shard.token[rows], 0)).long()
        batches.append(
            Batch(ids, np.flatnonzero(real), rows[real], np.flatnonzero(next_wanted), rows[next_wanted] + 1)
        )
    return batches


class AnswerKL(NamedTuple):
    """The result of patching."""

    kl: np.ndarray  # (rows of the shard, variants) float32, nats; NaN in rows that are not wanted
    fired: np.ndarray  # (latents,): tokens on which each latent fired
    left_out: int  # number of tokens that the crosscoder says nothing about


@torch.inference_mode()
def answer_kl(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    crosscoder: Crosscoder,
    summary: Summary,
    shard: Shard,
    wanted: np.ndarray,
    variants: Sequence[Variant],
    batch_tokens: int,
) -> AnswerKL:
    """Compute KL(p_chat || p_patched) for the prediction of every wanted token, for each variant.

    ``wanted`` (rows,) bool marks tokens of ``shard``.
    In each batch, both models run to the layer once and the crosscoder encodes once. A variant costs the
    blocks after the layer, and the LM head at the predicting positions only. Models and crosscoder may lie
    on different devices.
    """
    for model in (base, chat):
        check_ids(model, shard.token)
    device, patcher = crosscoder.decoder.device, Patcher(crosscoder)
    at_base, at_chat = device_of_inputs(base), device_of_inputs(chat)
    kl = np.full((len(shard.token), len(variants)), np.nan, np.float32)
    fired = torch.zeros(crosscoder.latents, dtype=torch.long, device=device)
    left_out = done = 0
    for batch in conversation_batches(shard, wanted, batch_tokens):
        predicting, real = (torch.from_numpy(part).to(device) for part in (batch.predicting, batch.real))
        hidden = [
            run_to_layer(model, batch.ids.to(where), crosscoder.layer).to(device)
            for model, where in ((base, at_base), (chat, at_chat))
        ]
        ids = batch.ids.to(at_chat)
        of_base, of_chat = (activations.flatten(0, 1)[real] for activations in hidden)
        norms = np.stack([found.float().norm(dim=1).cpu().numpy() for found in (of_base, of_chat)])
        counts = summary.counts(shard.position[batch.rows], norms)
        template = shard.template[batch.rows] != CONTENT
        count, is_template = (torch.from_numpy(mask).to(device) for mask in (counts, template))
        tokens = patcher.encode(of_base, of_chat, count, is_template)
        fired += torch.bincount(tokens.active.latents, minlength=crosscoder.latents)
        left_out += int((~counts).sum())

        def resumed(activations: Tensor, ids: Tensor = ids, predicting: Tensor = predicting) -> Tensor:
            last = resume_from_layer(chat, activations.to(at_chat), ids, crosscoder.layer)
            return last.flatten(0, 1)[predicting.to(at_chat)]

        patched = hidden[1].flatten(0, 1).clone()
        residuals = []
        for variant in variants:
            patched[real] = patcher.patched(tokens, variant).to(patched.dtype)
            residuals.append(resumed(patched.view_as(hidden[1])))
        kl[batch.predicted] = kl_from_chat(chat, resumed(hidden[1]), residuals).cpu().numpy()
        done += len(batch.rows)
        log.info("%d of %d tokens", done, len(shard.token))
    return AnswerKL(kl, fired.cpu().numpy(), left_out)
