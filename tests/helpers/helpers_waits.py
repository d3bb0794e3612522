"""Operations that make the host wait for a GPU, found on a CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# The result is a number on the host, or a tensor whose shape the host must know. The last one copies a number
# from the host.
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
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_}
MASKS = (torch.bool, torch.uint8)  # indexing by a mask needs its nonzero


class Waits(TorchDispatchMode):
    """Lists the names of such operations inside this context, in order.

    It does not see tolist, numpy and copies to the host.
    """

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
