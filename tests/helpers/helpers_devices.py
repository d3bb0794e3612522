"""Several devices where there is one: tensors compute on the CPU and claim to lie elsewhere.

As on real devices, an operation on tensors of two devices fails. Nothing here knows accelerate or models.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

KIND = "xla"  # a kind of device that torch knows by name, and that needs no library to name it
CPU = torch.device("cpu")
MOVES = ("copy", "aten.to")  # parts of the names of operations between devices
# For these, torch would ask for the device's library.
READING = (Tensor.tolist, Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.__bool__)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
GUARDED = (*INDEXING, Tensor.__invert__, Tensor.contiguous, Tensor.copy_)


class Elsewhere(Tensor):
    """A tensor that claims to lie on another device than its values do."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> Any:
        if device is None:  # accelerate makes a parameter by the type of the one before
            return torch.nn.Parameter(inner, requires_grad)
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=device, **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


def _computed(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU. The result lies where the arguments do, or where ``device`` asks for it."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = {tensor.device for tensor in tensors if tensor.dim() or tensor.device != CPU}
    if function in INDEXING or "index" in str(function):  # a GPU takes indices from the CPU
        there = {tensors[0].device, *(device for device in there if device != CPU)}
    if len(there) > 1 and not any(part in str(function) for part in MOVES):
        raise RuntimeError(f"{function}: tensors on {' and '.join(sorted(map(str, there)))}")
    asked = [torch.device(leaf) for leaf in leaves if isinstance(leaf, torch.device)]
    where = asked[0] if asked else tensors[0].device if "copy_" in str(function) else next(iter(there), CPU)

    def inner(leaf: Any) -> Any:
        if isinstance(leaf, Elsewhere):
            return leaf.inner
        return CPU if isinstance(leaf, torch.device) and leaf.type == KIND else leaf

    inner_args, inner_kwargs = tree_map(inner, (args, kwargs))
    if "histc" in str(function):  # the CPU counts no integers
        return Elsewhere(function(inner_args[0].float(), *inner_args[1:], **inner_kwargs), where)
    given = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}

    def outer(tensor: Tensor) -> Tensor:
        same = given.get(id(tensor))
        if same is not None:  # the same tensor, or what would be a copy on another device
            if same.device == where:
                return same
            tensor = tensor.clone()
        with torch.inference_mode(tensor.is_inference()):  # a view is one if its tensor is
            return Elsewhere(tensor, where) if where.type == KIND else tensor

    return tree_map_only(Tensor, outer, function(*inner_args, **inner_kwargs))


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


class _Called(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and torch.device(kwargs.get("device") or CPU).type == KIND:
            return function(*args, **{**kwargs, "device": CPU}).to(kwargs["device"])
        if function in GUARDED and any(isinstance(leaf, Elsewhere) for leaf in tree_leaves(args)):
            return _computed(function, args, kwargs)
        if function in READING:
            return function(args[0].inner if isinstance(args[0], Elsewhere) else args[0])
        return function(*args, **kwargs)


@contextmanager
def several_devices() -> Iterator[list[torch.device]]:
    """Two devices on which tensors can be made, and to which they can be moved, in this context."""
    with _Called(), _Dispatched():
        yield [torch.device(KIND, number) for number in range(2)]


def moved(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A copy of a model on a device, without hooks. Tied weights are no longer one."""
    copy = deepcopy(model)
    for module in copy.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            module._parameters[name] = torch.nn.Parameter(value.detach().to(device), requires_grad=False)
        for name, value in list(module.named_buffers(recurse=False)):
            module._buffers[name] = value.to(device)
    return copy
