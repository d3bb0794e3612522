"""Parts of a model that families name differently. This module imports no part of transformers."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crossdiff.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_POSITIONS = 512  # number of positions that callers give to ``head_logits`` at a time


def decoder_layers(model: "PreTrainedModel") -> nn.ModuleList:
    """The transformer blocks of the text model, which families name differently.

    Raises UserError if they are not found.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        for name in ("layers", "h", "blocks"):
            layers = getattr(module, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == n_layers:
                return layers
    problem = f"its {n_layers} transformer blocks were not found"
    raise UserError(f"{type(model).__name__}: {problem}; this family is not supported")


def device_of_inputs(model: "PreTrainedModel") -> torch.device:
    """The device on which ``model`` reads its tokens, and gives back streams and logits.

    The model's own ``device`` tells that only if all of it lies on one.
    """
    table: Any = model.get_input_embeddings()
    return table.weight.device
