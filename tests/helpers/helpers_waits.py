"""Operations for whose result the host must wait on a GPU, seen on a CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# Their results are numbers on the host, or tensors whose shapes are. The last copies a number that the host made.
WAITING = {
    ATEN.nonzero,
    ATEN._local_scalar_dense,  # item, int, bool
    ATEN.is_nonzero,
    ATEN.equal,
    ATEN.masked_select,
    ATEN._unique2,
    ATEN.unique_dim,
    ATEN.unique_consecutive,
    ATEN.repeat_interleave,
    ATEN.bincount,
    ATEN.lift_fresh,  # torch.tensor
}
# by a mask, as by its nonzero
INDEXING, MASKS = ({ATEN.index, ATEN.index_put, ATEN.index_put_}, (torch.bool, torch.uint8))


class Waits(TorchDispatchMode):
    """The names of such operations, in order, among those inside this context. Not seen: tolist, numpy and copies to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket
        if name in WAITING or (
            name in INDEXING and any(index is not None and index.dtype in MASKS for index in args[1])
        ):
            self.seen.append(str(name))
        return func(*args, **(kwargs or {}))
