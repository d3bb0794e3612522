"""What a job takes of a machine's GPUs. None of it changes results, other than by rounding."""

from collections.abc import Mapping
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

    def check_training(self, store: str, batches: Mapping[str, int]) -> None:
        """Raise ValueError if a training can't run on so many GPUs.

        ``store`` is ``activations.store``, and ``batches`` has the batch of each crosscoder by its name.
        """
        if self.training > 1 and store == "none":
            raise ValueError(
                f"gpus.training: found {self.training}, allowed: 1 with activations.store: none, "
                "because crosscoders then train where the models run"
            )
        for name, batch in batches.items():
            if batch % self.training:
                raise ValueError(
                    f"crosscoders.{name}.batch: found {batch}, "
                    f"allowed on {self.training} GPUs (gpus.training): multiples of {self.training}"
                )
