"""The class of a model, and a model without weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from crossdiff.models.tokenizers import read_configuration

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def model_class(config: "PreTrainedConfig") -> type:
    """The class that loads a model: of language models, or of those that read images, too.

    Raises ValueError for other kinds of models.
    """
    kind = config.model_type
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    raise ValueError(f"model_type: found {kind}, which is no language model that transformers knows")


def without_weights(folder: str | Path) -> "PreTrainedModel":
    """The model that a folder's config.json describes. Its tensors have shapes and no memory (device meta).

    Raises ValueError for another kind of model than a language model.
    """
    config = read_configuration(folder)
    with torch.device("meta"):
        return model_class(config).from_config(config)  # type: ignore[attr-defined]
