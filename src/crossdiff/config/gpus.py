"""What a job takes of a machine's GPUs. None of it changes results, other than by rounding."""

from typing import Annotated

from crossdiff.config.base import PositiveFloat, PositiveInt, Section, about


class GPUs(Section):
    """How jobs share GPUs, and what becomes of a model that is larger than one of them."""

    memory: Annotated[
        PositiveFloat | None,
        about("Memory of each GPU that a job may take. Left out: all that is free.", "GB"),
    ] = None
    offload: Annotated[
        bool,
        about("Keep in main memory what the GPUs have no room for of a model. Such a model is slow."),
    ] = False
    training: Annotated[
        PositiveInt,
        about("GPUs on which one training runs. `batch` must be a multiple of it.", "count"),
    ] = 1
