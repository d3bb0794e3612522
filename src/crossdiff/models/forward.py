"""Run a part of a model: up to the outputs of some layers, or from a layer to the end.

``layer`` is a 0-based transformer block. Its output is the residual stream after this block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from crossdiff.errors import UserError
from crossdiff.models.parts import decoder_layers, device_of_inputs


@torch.inference_mode()
def only_attends(model: PreTrainedModel) -> bool:
    """Whether keys and values of attention are all that ``model`` keeps of earlier tokens.

    If so, a cache may be cut, copied and filled in parts, and padding on the left may be masked. State-space,
    linear and recurrent blocks keep a state instead, and this state has read the padding too. The model is
    asked with one token.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=device_of_inputs(model))
    kept = getattr(model.base_model(input_ids=token, use_cache=True), "past_key_values", None)
    return type(kept) is DynamicCache and all(
        type(block) in (DynamicLayer, DynamicSlidingWindowLayer) for block in kept.layers
    )


class _Reached(Exception):
    """Stops the forward pass once the deepest layer's output is known."""


def run_to_layer(model: PreTrainedModel, ids: Tensor, layer: int, **inputs: Any) -> Tensor:
    """Residual stream after block ``layer``, (batch, position, d_model), in the model's dtype.

    Later blocks and the LM head do not run. ``ids`` (batch, position) may be padded on the right with any
    token, because with causal attention padding does not affect the positions before it. ``inputs`` are
    further inputs of the model, such as a mask for other padding, or a cache that the blocks fill. The
    streams lie where ``ids`` do, and that is ``device_of_inputs``.

    Raises UserError for a family whose blocks do not give one residual stream.
    """
    return run_to_layers(model, ids, [layer], **inputs)[0]


@torch.inference_mode()
def run_to_layers(model: PreTrainedModel, ids: Tensor, layers: Sequence[int], **inputs: Any) -> list[Tensor]:
    """Residual streams after the blocks ``layers``, in their order, from one pass.

    Blocks after the deepest of them do not run. Each stream is bit for bit what ``run_to_layer`` gives, which
    also describes the arguments.
    """
    outputs = _block_outputs(model, ids, layers, **inputs)
    streams = [_stream(outputs[layer]).to(ids.device) for layer in layers]
    if streams[0].dim() != 3:
        found = f"its blocks give a tensor of shape {tuple(streams[0].shape)}, not one residual stream"
        raise UserError(f"{type(model).__name__}: {found}; this family is not supported")
    return streams


Output = Tensor | tuple[Tensor, ...]  # of a block: the residual stream, or a tuple that begins with it


def _stream(output: Output) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _block_outputs(
    model: PreTrainedModel, ids: Tensor, layers: Sequence[int], **inputs: Any
) -> dict[int, Output]:
    """Layer -> output of its block. Of all but the deepest it is a copy of the residual stream."""
    found: dict[int, Output] = {}
    deepest = max(layers)

    def keep(layer: int, output: Output) -> None:
        if layer == deepest:
            found[layer] = output
            raise _Reached
        found[layer] = _stream(output).clone()  # the next block may change its input in place

    blocks = decoder_layers(model)
    handles = [
        blocks[layer].register_forward_hook(lambda _block, _inputs, output, layer=layer: keep(layer, output))
        for layer in set(layers)
    ]
    try:
        model.base_model(input_ids=ids, **{"use_cache": False, **inputs})
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


_widths: dict[type[nn.Module], int | None] = {}  # class of block -> length of its output, None if no tuple


def _tuple_width(model: PreTrainedModel) -> int | None:
    """How many values the tuple has that blocks give, or None if they give the residual stream alone.

    This is tried with one token, once for each family.
    """
    block = type(decoder_layers(model)[0])
    if block not in _widths:
        token = torch.zeros(1, 1, dtype=torch.long, device=device_of_inputs(model))
        output = _block_outputs(model, token, [0])[0]
        _widths[block] = len(output) if isinstance(output, tuple) else None
    return _widths[block]


class _Given(nn.Module):
    """Stands in for a block that is skipped.

    It gives its input, or the fixed tensor ``output``. With ``width`` it gives a tuple of as many values, as
    the block itself does. All but the first are None.
    """

    def __init__(self, block: nn.Module, output: Tensor | None, width: int | None) -> None:
        super().__init__()
        self.block = [block]  # in a list, so that it does not become a submodule
        self.output = output
        self.width = width

    def __getattr__(self, name: str) -> Any:
        # Some families read attributes of their blocks, such as attention_type.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"][0], name)

    def forward(
        self, hidden: Tensor, *_args: object, **_kwargs: object
    ) -> Tensor | tuple[Tensor | None, ...]:
        output = hidden if self.output is None else self.output
        return output if self.width is None else (output, *[None] * (self.width - 1))


@contextmanager
def _resumed(model: PreTrainedModel, layer: int, hidden: Tensor) -> Iterator[None]:
    """Skip the blocks up to ``layer`` in this context. Then ``hidden`` is the output of block ``layer``."""
    layers, width = decoder_layers(model), _tuple_width(model)
    skipped = list(layers[: layer + 1])
    for index, block in enumerate(skipped):
        layers[index] = _Given(block, hidden if index == layer else None, width)
    try:
        yield
    finally:
        for index, block in enumerate(skipped):
            layers[index] = block


@torch.inference_mode()
def resume_from_layer(
    model: PreTrainedModel, hidden: Tensor, ids: Tensor, layer: int, **inputs: Any
) -> Tensor:
    """Residual stream after the last block, if ``hidden`` were the output of block ``layer``.

    Both are (batch, position, d_model). Blocks up to ``layer`` and the LM head do not run, so ``ids`` (batch,
    position) only gives the shape, and what the family derives from it. ``inputs`` are those of
    ``run_to_layer``.
    """
    with _resumed(model, layer, hidden):
        return run_to_layer(model, ids, len(decoder_layers(model)) - 1, **inputs)


@torch.inference_mode()
def head_logits(model: PreTrainedModel, residual: Tensor) -> Tensor:
    """Logits (n, vocabulary) of n positions, from their residual stream after the last block, (n, d_model).

    Runs the rest of the model itself: final norm, LM head and, if the family has one, the soft cap or scale
    of the logits. These treat each position on its own, so the positions may come from anywhere.

    Raises UserError for a family whose head does not treat each position on its own.
    """
    ids = torch.zeros(len(residual), 1, dtype=torch.long, device=residual.device)
    with _resumed(model, len(decoder_layers(model)) - 1, residual[:, None]):
        logits = model(input_ids=ids, use_cache=False).logits[:, 0]
    if len(logits) != len(residual):
        found = f"{len(residual)} positions gave {len(logits)} rows of logits"
        raise UserError(f"{type(model).__name__}: {found}; this family is not supported")
    return logits
