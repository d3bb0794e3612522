"""Running a part of a model: up to a layer's output, or on from it.

``layer`` is the 0-based block whose output (the residual stream) is meant.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossdiff.errors import UserError

HEAD_POSITIONS = 512  # positions whose logits callers of ``head_logits`` hold at a time


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, whatever the family calls them."""
    n_layers = model.config.get_text_config().num_hidden_layers
    for _, module in model.named_modules():
        for name in ("layers", "h", "blocks"):
            layers = getattr(module, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == n_layers:
                return layers
    raise UserError(
        f"{type(model).__name__}: its {n_layers} transformer blocks were not found; this family is not supported"
    )


class _Reached(Exception):
    """Stops the forward pass: the layer's output is known."""


@torch.inference_mode()
def run_to_layer(model: PreTrainedModel, ids: Tensor, layer: int, **inputs: Any) -> Tensor:
    """Residual stream after block ``layer``, (batch, position, d_model), in the model's dtype. No later block and no LM head runs.

    ``ids`` (batch, position) is padded on the right, with any token: causal attention keeps padding out of what comes before it.
    ``inputs`` are further ones of the model: a mask for other padding, a cache that the blocks fill.
    """
    output = _block_output(model, ids, layer, **inputs)
    return output[0] if isinstance(output, tuple) else output


def _block_output(
    model: PreTrainedModel, ids: Tensor, layer: int, **inputs: Any
) -> Tensor | tuple[Tensor, ...]:
    """What block ``layer`` gives: the residual stream, in some families first in a tuple."""
    found: list[Tensor | tuple[Tensor, ...]] = []

    def stop(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output)
        raise _Reached

    handle = decoder_layers(model)[layer].register_forward_hook(stop)
    try:
        model.base_model(input_ids=ids, **{"use_cache": False, **inputs})
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


_in_tuple: dict[type[nn.Module], bool] = {}  # class of block -> whether its residual stream is in a tuple


def _gives_tuple(model: PreTrainedModel) -> bool:
    """Whether the blocks give a tuple: tried with one token, once for each family."""
    block = type(decoder_layers(model)[0])
    if block not in _in_tuple:
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        _in_tuple[block] = isinstance(_block_output(model, token, 0), tuple)
    return _in_tuple[block]


class _Given(nn.Module):
    """Stands in for a block whose work is skipped: hands on what it is given, or a fixed tensor, as the block would (``in_tuple``)."""

    def __init__(self, block: nn.Module, output: Tensor | None, in_tuple: bool) -> None:
        super().__init__()
        self.block = [block]  # in a list: not a submodule
        self.output = output
        self.in_tuple = in_tuple

    def __getattr__(self, name: str):
        # Families read attributes such as attention_type off their blocks.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"][0], name)

    def forward(self, hidden: Tensor, *_args: object, **_kwargs: object) -> Tensor | tuple[Tensor]:
        output = hidden if self.output is None else self.output
        return (output,) if self.in_tuple else output


@contextmanager
def _resumed(model: PreTrainedModel, layer: int, hidden: Tensor) -> Iterator[None]:
    layers, in_tuple = decoder_layers(model), _gives_tuple(model)
    skipped = list(layers[: layer + 1])
    for index, block in enumerate(skipped):
        layers[index] = _Given(block, hidden if index == layer else None, in_tuple)
    try:
        yield
    finally:
        for index, block in enumerate(skipped):
            layers[index] = block


@torch.inference_mode()
def resume_from_layer(
    model: PreTrainedModel, hidden: Tensor, ids: Tensor, layer: int, **inputs: Any
) -> Tensor:
    """Residual stream after the last block, shaped as ``hidden`` (batch, position, d_model), which becomes the output of block ``layer``.

    ``ids`` only gives the shape (and what the family derives from it); blocks up to ``layer`` do no work, and the LM head does not run.
    ``inputs`` as in ``run_to_layer``.
    """
    with _resumed(model, layer, hidden):
        return run_to_layer(model, ids, len(decoder_layers(model)) - 1, **inputs)


@torch.inference_mode()
def head_logits(model: PreTrainedModel, residual: Tensor) -> Tensor:
    """Logits (n, vocabulary) of n positions from the residual stream after the last block, (n, d_model).

    What is left of the model looks at one position at a time, so any positions will do. It is the model's own: final norm, LM head and,
    where the family has one, soft cap or scale of the logits.
    """
    ids = torch.zeros(len(residual), 1, dtype=torch.long, device=residual.device)
    with _resumed(model, len(decoder_layers(model)) - 1, residual[:, None]):
        logits = model(input_ids=ids, use_cache=False).logits[:, 0]
    if len(logits) != len(residual):
        raise UserError(
            f"{type(model).__name__}: {len(residual)} positions gave {len(logits)} rows of logits; this family is not supported"
        )
    return logits
