"""Loading a model or tokenizer from a plain Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from crossdiff.device import device
from crossdiff.errors import UserError, first_line

if TYPE_CHECKING:  # costs two seconds that loading a tokenizer need not wait
    from transformers import PreTrainedConfig, PreTrainedModel


def load_model(folder: str | Path, dtype: torch.dtype) -> "PreTrainedModel":
    """A causal language model in evaluation mode on the best device. No code from the folder is run."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: not a usable model folder ({first_line(error)})") from error
    return model.to(device()).eval()


def load_tokenizer(folder: str | Path):
    """The folder's fast tokenizer."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({first_line(error)})") from error


def text_config(folder: str | Path) -> "PreTrainedConfig":
    """The configuration of the language model proper (without a vision tower)."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable config.json ({first_line(error)})") from error
