"""What a job takes of a machine's GPUs. None of it changes results, other than by rounding."""

from collections.abc import Mapping
from typing import Annotated

from crossdiff.config.base import PositiveFloat, PositiveInt, Section, about
from crossdiff.config.crosscoders import CrosscoderSettings


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

    def check_batches(self, crosscoders: Mapping[str, CrosscoderSettings]) -> None:
        """Raise ValueError if the batch of a crosscoder can't be shared by the GPUs of its training."""
        for name, settings in crosscoders.items():
            if settings.batch % self.training:
                raise ValueError(
                    f"crosscoders.{name}.batch: found {settings.batch}, "
                    f"allowed on {self.training} GPUs (gpus.training): multiples of {self.training}"
                )
