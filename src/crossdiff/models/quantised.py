"""Checkpoints of 8 or 4 bits: which library reads them, and whether it is installed. Torch-free."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError, first_line

# Method in config.json -> the modules that transformers needs to read it. Without any, it needs none.
LIBRARIES = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "hqq": ("hqq",),
    "quanto": ("optimum.quanto",),
    "fp8": (),
    "mxfp4": (),
}
PACKAGES = {
    "compressed_tensors": "compressed-tensors",
    "optimum.quanto": "optimum-quanto",
}  # unlike the module


def quantisation(folder: str | Path) -> str | None:
    """The method by which a folder's weights are quantised, such as `bitsandbytes`. None for plain ones.

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
    if method not in LIBRARIES:
        raise UserError(
            f"{name}: quantised by {method}, allowed: {', '.join(LIBRARIES)}; "
            "name a checkpoint of 16 or 32 bits"
        )
    missing = [PACKAGES.get(name, name) for name in LIBRARIES[method] if not _installed(name)]
    if missing:
        raise UserError(
            f"{name}: quantised by {method}, and {' and '.join(missing)} is not installed; "
            f"pip install {' '.join(missing)}, or name a checkpoint of 16 or 32 bits"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent
        return False
