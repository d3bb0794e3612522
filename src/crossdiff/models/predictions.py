"""Distributions over the next token, from the residual stream after the last block."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from crossdiff.models.forward import head_logits
from crossdiff.models.parts import HEAD_POSITIONS


@torch.inference_mode()
def kl_from_chat(chat: PreTrainedModel, own: Tensor, residuals: Sequence[Tensor]) -> Tensor:
    """KL(p_chat || p_other) in nats at n positions: (n, variants).

    ``own`` (n, d_model) is the chat model's last residual stream. ``residuals`` are the other ones, one per
    variant.
    """
    kl = torch.empty(len(own), len(residuals), device=own.device)
    for first in range(0, len(own), HEAD_POSITIONS):
        block = slice(first, first + HEAD_POSITIONS)
        expected = log_probabilities(chat, own[block])
        for number, residual in enumerate(residuals):
            found = log_probabilities(chat, residual[block])
            per_token = functional.kl_div(found, expected, reduction="none", log_target=True)
            kl[block, number] = per_token.sum(dim=1)
    return kl


def log_probabilities(model: PreTrainedModel, residual: Tensor, width: int | None = None) -> Tensor:
    """log p of the next token (n, vocabulary), float32, from the last residual stream (n, d_model).

    With ``width`` only the first ``width`` entries of the vocabulary are there, and share all probability.
    """
    return functional.log_softmax(head_logits(model, residual)[:, :width].float(), dim=1)
