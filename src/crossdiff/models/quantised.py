"""Checkpoints of 8 or 4 bits: which library reads them, and whether it is installed. Torch-free."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from crossdiff.errors import UserError

# Method in config.json -> the modules that transformers needs to read it. Without any, it needs none.
LIBRARIES = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "hqq": ("hqq",),
    "quanto": ("optimum.quanto",),
    "auto-round": ("auto_round",),
    "aqlm": ("aqlm",),
    "eetq": ("eetq",),
    "quark": ("quark",),
    "vptq": ("vptq",),
    "fp8": (),
    "mxfp4": (),
}
# Module -> the package that it comes in, where their names differ.
PACKAGES = {
    "auto_round": "auto-round",
    "compressed_tensors": "compressed-tensors",
    "optimum.quanto": "optimum-quanto",
    "quark": "amd-quark",
}


def quantisation(config: Mapping[str, Any]) -> str | None:
    """The method by which the weights of a model with this ``config`` (config.json) are quantised.

    Such as `bitsandbytes`. None for weights of 16 or 32 bits.
    """
    inner = config.get("text_config") or {}
    settings = config.get("quantization_config") or inner.get("quantization_config")
    if not settings:
        return None
    # Old bitsandbytes checkpoints name no method.
    return str(settings.get("quant_method") or "bitsandbytes")


def check_quantisation(config: Mapping[str, Any], name: str) -> None:
    """Raise UserError if a model's weights are quantised and the library that reads them is missing.

    ``config`` is its config.json. ``name`` stands for the model in the error.
    """
    method = quantisation(config)
    if method is None:
        return
    if method not in LIBRARIES:
        raise UserError(
            f"{name}: quantised by {method}, allowed: {', '.join(LIBRARIES)}; "
            "name a checkpoint of 16 or 32 bits"
        )
    missing = [PACKAGES.get(module, module) for module in LIBRARIES[method] if not _installed(module)]
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
