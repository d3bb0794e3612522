"""Tokens that a model can't read, or never saw: which it reads in their place."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from crossdiff.errors import UserError
from crossdiff.models.parts import device_of_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

M = TypeVar("M", bound="PreTrainedModel")


def with_replacements(model: M, replacements: Mapping[int, int]) -> M:
    """Let ``model`` read, in place of each id in ``replacements``, the id that stands there for it.

    ``model`` is changed in place: every forward pass swaps the ids that it gets. Those that it generates
    stay.
    """
    if replacements:
        model.read_in_place = dict(replacements)  # type: ignore[assignment]
        before, after = (ids.to(device_of_inputs(model)) for ids in _columns(replacements))

        def swap(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if args:
                return (_swapped(args[0], before, after), *args[1:]), kwargs
            return args, {**kwargs, "input_ids": _swapped(kwargs["input_ids"], before, after)}

        model.base_model.register_forward_pre_hook(swap, with_kwargs=True)
    return model


def _swapped(ids: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """``ids`` with each of ``before`` (sorted) replaced by its entry in ``after``."""
    place = torch.searchsorted(before, ids).clamp_max(len(before) - 1)
    return torch.where(before[place] == ids, after[place], ids)


def _columns(replacements: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """The ids that are replaced, sorted, and those that are read in their place."""
    before = sorted(replacements)
    return torch.tensor(before), torch.tensor([replacements[number] for number in before])


def as_read(model: "PreTrainedModel", ids: np.ndarray) -> np.ndarray:
    """``ids`` as ``model`` reads them, of the same shape and type. There may be billions of them."""
    replacements: dict[int, int] = getattr(model, "read_in_place", {})
    if not replacements:
        return ids
    table = np.arange(max(int(ids.max(initial=0)), *replacements) + 1, dtype=ids.dtype)
    table[list(replacements)] = list(replacements.values())
    return table[ids]


def embedding_rows(model: "PreTrainedModel") -> int:
    """The number of ids that ``model`` can read."""
    table: Any = model.get_input_embeddings()
    return int(table.weight.shape[0])


def check_ids(model: "PreTrainedModel", ids: np.ndarray) -> None:
    """Raise UserError if the embedding of ``model`` has no row for one of ``ids``, which are of any shape."""
    rows = embedding_rows(model)
    beyond = as_read(model, ids) >= rows
    if beyond.any():
        first = int(ids[beyond][0])
        raise UserError(
            f"{beyond.sum():,} of {ids.size:,} tokens (such as id {first}) have no row in the model's "
            f"embedding, which has {rows:,}; for the base model, "
            f"set tokens.base_replacements, such as {{{first}: 0}}"
        )
