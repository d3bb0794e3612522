"""Checkpoints of 8 or 4 bits: which library reads them, and whether it is installed. Torch-free."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError, first_line

# Method in config.json -> (module that transformers needs to read it, package that holds the module).
LIBRARIES = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "torchao": ("torchao", "torchao"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "eetq": ("kernels", "kernels"),
    "aqlm": ("aqlm", "aqlm"),
    "fp8": ("kernels", "kernels"),
    "mxfp4": ("kernels", "kernels"),
}


def quantisation(folder: str | Path) -> str | None:
    """The method by which a model folder's weights are quantised, such as `bitsandbytes`. None for plain ones.

    Raises UserError for a config.json that can't be read.
    """
    settings = read_config(folder)
    found = settings.get("quantization_config") or settings.get("text_config", {}).get("quantization_config")
    if not found:
        return None
    # Old bitsandbytes checkpoints name no method.
    return found.get("quant_method") or "bitsandbytes"


def read_config(folder: str | Path) -> dict[str, Any]:
    """The values of a folder's config.json. Raises UserError for one that can't be read."""
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable model folder (config.json: {first_line(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{folder}: not a usable model folder (config.json holds a {type(values).__name__})")
    return values


def check_quantisation(folder: str | Path, name: str) -> None:
    """Raise UserError if a folder's weights are quantised and the library that reads them is missing.

    ``name`` stands for the model in the error.
    """
    method = quantisation(folder)
    if method is None:
        return
    module, package = LIBRARIES.get(method, (None, None))
    if module is None:
        raise UserError(
            f"{name}: quantised by {method!r}, allowed: {', '.join(LIBRARIES)}; name a checkpoint of 16 or 32 bits"
        )
    if not _installed(module):
        raise UserError(
            f"{name}: quantised by {method}, and {package} is not installed; pip install {package}, "
            "or name a checkpoint of 16 or 32 bits"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent
        return False
