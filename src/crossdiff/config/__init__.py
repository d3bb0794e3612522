"""The configuration, strictly typed: every key with its type, bounds, unit and meaning.

docs/config.md and config.schema.json are made from this package (config/reference.py). It is torch-free:
the Snakefile imports it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from crossdiff.config.analysis import (
    FEWEST_ACTIVE_BLOCKS,
    Behaviour,
    Bootstrap,
    Causal,
    Classes,
    Density,
    Examples,
    FirstLook,
    LatentScaling,
    Patching,
    Report,
    Scoring,
    SeedAgreement,
    Twins,
)
from crossdiff.config.base import Section
from crossdiff.config.crosscoders import (
    Activations,
    BatchTopKSettings,
    CrosscoderSettings,
    L1Settings,
    Normalisation,
)
from crossdiff.config.explanations import Endpoint, ExplainedLatents, Explainer, Explanations, Prices
from crossdiff.config.given import Adapter, Gguf, GivenModel
from crossdiff.config.imported import ImportedCrosscoder
from crossdiff.config.live import POOLS, sampled
from crossdiff.config.losses import LOSSES, crosscoder_settings
from crossdiff.config.models import (
    BASE,
    CHAT,
    MODELS,
    Finetune,
    Finetuning,
    ModelSource,
    Noise,
    Planted,
    PlantedConcepts,
    RandomModel,
)
from crossdiff.config.organisms import Organisms, taught_source
from crossdiff.config.pairs import Pair
from crossdiff.config.problems import describe
from crossdiff.config.sources import (
    Dataset,
    HubDataset,
    HubModel,
    Package,
    TextSource,
    Tokens,
)
from crossdiff.config.steering import Stated, Steering, SteeringGrid
from crossdiff.config.whole import Config
from crossdiff.errors import UserError

__all__ = [
    "BASE",
    "CHAT",
    "FEWEST_ACTIVE_BLOCKS",
    "LOSSES",
    "MODELS",
    "POOLS",
    "Activations",
    "Adapter",
    "BatchTopKSettings",
    "Behaviour",
    "Bootstrap",
    "Causal",
    "Classes",
    "Config",
    "CrosscoderSettings",
    "Dataset",
    "Density",
    "Endpoint",
    "Examples",
    "ExplainedLatents",
    "Explainer",
    "Explanations",
    "Finetune",
    "Finetuning",
    "FirstLook",
    "Gguf",
    "GivenModel",
    "HubDataset",
    "HubModel",
    "ImportedCrosscoder",
    "L1Settings",
    "LatentScaling",
    "ModelSource",
    "Noise",
    "Normalisation",
    "Organisms",
    "Package",
    "Pair",
    "Patching",
    "Planted",
    "PlantedConcepts",
    "Prices",
    "RandomModel",
    "Report",
    "Scoring",
    "Section",
    "SeedAgreement",
    "Stated",
    "Steering",
    "SteeringGrid",
    "TextSource",
    "Tokens",
    "Twins",
    "crosscoder_settings",
    "load",
    "sampled",
    "taught_source",
]


def load(values: Mapping[str, Any]) -> Config:
    """The configuration in ``values`` (the parsed YAML).

    Raises UserError with one line per problem: the key, what was found, what is allowed.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(
            "\n".join(f"config: {describe(problem, Config)}" for problem in error.errors())
        ) from error
