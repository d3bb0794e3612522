"""Which losses there are.

Losses of other packages import ``crossdiff.config``: what they need of it is imported before this module.
"""

import functools
import operator
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter

from crossdiff.config.crosscoders import BatchTopKSettings, CrosscoderSettings, L1Settings
from crossdiff.config.imported import IMPORT, ImportedCrosscoder
from crossdiff.config.newer_losses import (
    BridgeSettings,
    DedicatedL1Settings,
    DedicatedSettings,
    DeltaSettings,
    DesignatedL1Settings,
    DesignatedSettings,
    DifferenceSettings,
    JumpReLUSettings,
    MatryoshkaSettings,
)

# Every loss, by the name that a config gives. Other packages add theirs as entry points of this group.
LOSSES: dict[str, type[CrosscoderSettings]] = {
    "batchtopk": BatchTopKSettings,
    "l1": L1Settings,
    "dedicated": DedicatedSettings,
    "dedicated_l1": DedicatedL1Settings,
    "designated": DesignatedSettings,
    "designated_l1": DesignatedL1Settings,
    "matryoshka": MatryoshkaSettings,
    "jumprelu": JumpReLUSettings,
    "delta": DeltaSettings,
    "bridge": BridgeSettings,
    "difference": DifferenceSettings,
}
LOSSES |= {entry.name: entry.load() for entry in entry_points(group="crossdiff.losses")}
TRAINED = "loss"  # the key by which an entry of ``crosscoders`` is one that is trained


def _kind(values: Any) -> str:
    """The key that decides what an entry of ``crosscoders`` is."""
    is_imported = isinstance(values, ImportedCrosscoder) or (
        isinstance(values, Mapping) and values.get(IMPORT) is not None
    )
    return IMPORT if is_imported else TRAINED


if TYPE_CHECKING:
    Trained = CrosscoderSettings  # which losses there are is known at run time
    AnyCrosscoder = CrosscoderSettings | ImportedCrosscoder
else:
    Trained = Annotated[functools.reduce(operator.or_, LOSSES.values()), Field(discriminator="loss")]
    AnyCrosscoder = Annotated[
        Annotated[Trained, Tag(TRAINED)] | Annotated[ImportedCrosscoder, Tag(IMPORT)], Discriminator(_kind)
    ]


def crosscoder_settings(values: Mapping[str, Any]) -> CrosscoderSettings:
    """The typed settings of one entry of ``crosscoders`` that is trained."""
    return TypeAdapter(Trained).validate_python(dict(values))
