"""Models of 8 or 4 bits: checkpoints that are stored so, and those that are loaded so. Torch-free.

The first name the library that reads them in config.json. The others are rounded by bitsandbytes while they
are loaded. Their folders hold a file that says so (LOADED_AS).
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError

LOADED_AS = "loaded_as.json"  # {"bits": 4}, in the folder of a model that is loaded in so many bits
BITSANDBYTES = "bitsandbytes"

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
    return str(settings.get("quant_method") or BITSANDBYTES)


def asked_bits(folder: str | Path) -> int | None:
    """How many bits the model in ``folder`` is loaded in. None if it is loaded as it is stored."""
    path = Path(folder) / LOADED_AS
    return int(json.loads(path.read_text(encoding="utf-8"))["bits"]) if path.is_file() else None


def write_bits(folder: Path, bits: int) -> None:
    """Note in a model's folder that it is loaded in so many bits."""
    (folder / LOADED_AS).write_text(json.dumps({"bits": bits}), encoding="utf-8")


def check_bits(bits: int, key: str, config: Mapping[str, Any] | None = None) -> None:
    """Raise UserError for a model that can't be loaded in so many bits.

    ``key`` is that of ``bits`` in the config. ``config`` is the model's config.json, where that is known:
    weights that are quantised already can't be rounded again.
    """
    if method := quantisation(config or {}):
        raise UserError(
            f"{key}: found {bits}, but the weights are quantised by {method} already; leave it out"
        )
    if not _installed(BITSANDBYTES):
        install = f"pip install {BITSANDBYTES}, or leave it out"
        raise UserError(f"{key}: found {bits}, and {BITSANDBYTES} is not installed; {install}")


def few_bits(config: Mapping[str, Any], bits: int | None) -> str | None:
    """In words, how many bits a model has and which library rounded it. None for 16 or 32 bits.

    ``config`` is its config.json, and ``bits`` those that it is loaded in (``asked_bits``).
    """
    method = quantisation(config) or (BITSANDBYTES if bits else None)
    if method is None:
        return None
    stored = bits or _stored_bits(config)
    return f"{stored} bits ({method})" if stored else f"few bits ({method})"


def _stored_bits(config: Mapping[str, Any]) -> int | None:
    """The bits of the weights of a quantised checkpoint, where the usual keys of config.json tell them."""
    inner = config.get("text_config") or {}
    settings = config.get("quantization_config") or inner.get("quantization_config") or {}
    if settings.get("load_in_4bit") or settings.get("quant_method") == "mxfp4":
        return 4
    if settings.get("load_in_8bit") or settings.get("quant_method") == "fp8":
        return 8
    groups = settings.get("config_groups")
    first: Mapping[str, Any] = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    found = settings.get("bits") or settings.get("nbits") or (first.get("weights") or {}).get("num_bits")
    return found if isinstance(found, int) else None


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
