"""Loading a model or tokenizer from a plain Hugging Face folder."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from crossdiff.errors import UserError


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_dtype() -> torch.dtype:
    """bfloat16 where the device has matrix units for it, else float32, which is then the faster of the two."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


def load_model(folder: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model in evaluation mode on the best device. No code from the folder is run."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable model folder ({str(error).splitlines()[0]})") from error
    return model.to(device()).eval()


def load_tokenizer(folder: str | Path):
    """The folder's fast tokenizer."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({str(error).splitlines()[0]})") from error


def text_config(folder: str | Path) -> PreTrainedConfig:
    """The configuration of the language model proper (without a vision tower)."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable config.json ({str(error).splitlines()[0]})") from error
