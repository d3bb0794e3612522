"""What a model takes of a device's memory, from its config.json and headers: no weight is read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from crossdiff.models.adapters import base_folder
from crossdiff.models.classes import without_weights
from crossdiff.models.files import ADAPTER_WEIGHTS, is_adapter
from crossdiff.models.parts import HEAD_POSITIONS, decoder_layers
from crossdiff.models.quantised import asked_bits, quantisation
from crossdiff.models.weight_files import read_config, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PASS_TOKENS = "CROSSDIFF_BATCH_TOKENS"  # the workflow sets it from activations.batch_tokens
# Bytes per weight of a linear layer. In 4 bits, 64 weights share a scale in float32.
BYTES = {8: 1.0, 4: 0.5 + 4 / 64}


class Footprint(NamedTuple):
    """What a model takes, in bytes."""

    outside: dict[str, int]  # part outside the blocks -> its weights
    blocks: dict[str, int]  # block, in order -> its weights
    activations: int  # of a forward pass, on each GPU that computes

    @property
    def weights(self) -> int:
        """All weights."""
        return sum(self.outside.values()) + sum(self.blocks.values())


def footprint_of(folder: str | Path, dtype: torch.dtype, bits: int | None = None) -> Footprint:
    """The footprint of the model in ``folder``, loaded in ``dtype``.

    ``bits`` says how many bits its linear layers would have. Left out: as many as they are loaded in.
    """
    weights = base_folder(folder)
    found = footprint(without_weights(weights), dtype, bits or asked_bits(folder))
    if quantisation(read_config(weights)):
        # What lies outside the blocks has 16 bits or more. The blocks share the rest of the files.
        stored = sum(tensor.size for tensor in stored_tensors(weights))
        rest = max(0, stored - sum(found.outside.values()))
        each = rest / sum(found.blocks.values())
        found = found._replace(blocks={name: int(each * size) for name, size in found.blocks.items()})
    if is_adapter(folder):
        each = (Path(folder) / ADAPTER_WEIGHTS).stat().st_size / len(found.blocks)
        found = found._replace(blocks={name: int(size + each) for name, size in found.blocks.items()})
    return found


def is_of_few_bits(folder: str | Path) -> bool:
    """Whether the weights of the model in ``folder`` are stored in few bits, or loaded in few."""
    return asked_bits(folder) is not None or quantisation(read_config(base_folder(folder))) is not None


def footprint(model: "PreTrainedModel", dtype: torch.dtype, bits: int | None = None) -> Footprint:
    """The footprint of a model in ``dtype``. It may lie on the device meta.

    ``bits`` is for the linear layers of its blocks.
    """
    layers = decoder_layers(model)
    names = {module: name for name, module in model.named_modules()}
    tied = getattr(model, "all_tied_weights_keys", {})  # weights that take no memory of their own
    outside = {
        name: 0 if any(f"{weight}.".startswith(f"{name}.") for weight in tied) else _bytes(part, dtype)
        for name, part in _outside(model, "", names[layers])
    }
    blocks = {names[block]: _bytes(block, dtype, bits) for block in layers}
    config = model.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    wide = max(wide) if isinstance(wide, list) else wide
    # As in the forecast: four residual streams, and two vectors of the MLP, in float32. And some logits.
    tokens = int(os.environ.get(PASS_TOKENS) or 8192)
    values = tokens * (4 * config.hidden_size + 2 * wide) + 4 * HEAD_POSITIONS * config.vocab_size
    return Footprint(outside, blocks, 4 * values)


def _outside(module: nn.Module, prefix: str, blocks: str) -> Iterator[tuple[str, nn.Module]]:
    """Every module that does not hold ``blocks``, the name of the list of a model's blocks."""
    for name, child in module.named_children():
        if blocks.startswith(f"{prefix}{name}."):
            yield from _outside(child, f"{prefix}{name}.", blocks)
        elif blocks != prefix + name:
            yield prefix + name, child


def _bytes(part: nn.Module, dtype: torch.dtype, bits: int | None = None) -> int:
    """Bytes of all parameters and buffers of a module."""
    total = 0.0
    for module in part.modules():
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            few = bits and isinstance(module, nn.Linear) and name == "weight"
            total += value.numel() * (BYTES[bits] if bits and few else dtype.itemsize)
    return int(total)
