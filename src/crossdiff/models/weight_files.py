"""Check a model's folder by its file names and headers, before any of it is loaded. Torch-free."""

import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
ALLOWED = "a Hugging Face folder with config.json"
POINTER = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors format limits it
# Method of quantization -> the module that transformers reads it with.
LIBRARIES = {
    "aqlm": "aqlm",
    "auto-round": "auto_round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "eetq": "eetq",
    "fp8": "kernels",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "quark": "quark",
    "torchao": "torchao",
    "vptq": "vptq",
}


def check_folder(folder: Path) -> None:
    """Raise UserError for a folder that holds no whole model, and say what it holds instead."""
    if not folder.is_dir():
        raise UserError(f"found {folder}, allowed: {ALLOWED}")
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        _refuse_other_formats(folder)
    config = _json(folder / "config.json")
    _check_quantization(folder, config)
    tensor_names(folder)


def tensor_names(folder: Path) -> list[str]:
    """The names of all tensors, from the headers of the weight files.

    Raises UserError for a file that is missing, cut off or a pointer of git-lfs.
    """
    return [name for file in _files(folder) for name in _header(file) if name != "__metadata__"]


def _files(folder: Path) -> list[Path]:
    """The weight files, as transformers chooses them."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    shards = sorted(set(_json(folder / INDEX).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).exists()]
    if missing or not shards:
        lacks = f"{len(missing)} of its {len(shards)} shards are missing ({', '.join(missing[:3])})"
        raise UserError(f"{folder / INDEX}: {lacks}; copy or download them")
    return [folder / name for name in shards]


def _refuse_other_formats(folder: Path) -> None:
    there = {path.name for path in folder.iterdir()}

    def some(ending: str) -> str | None:
        return min((name for name in there if name.endswith(ending)), default=None)

    needs = f"needs config.json and {WEIGHTS} or its shards"
    if ADAPTER in there:
        found = (
            "it is an adapter (LoRA), no whole model; give it as adapter: {base: ..., folder: "
            + f"{folder}"
            + "}"
        )
    elif any(name.startswith("pytorch_model") and name.endswith(".bin") for name in there):
        convert = (
            f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"[c.from_pretrained('{folder}').save_pretrained('{folder}-safetensors') for c in (M, T)]"
        )
        found = f'it has pickled weights only (pytorch_model.bin); convert them: python -c "{convert}"'
    elif (name := some(".gguf")) is not None:
        found = (
            f"it holds a GGUF file ({name}), no Hugging Face folder; download the repository it was made from"
        )
    elif any(name.startswith("consolidated") for name in there):
        found = (
            "it has the weights in the format of their authors only (consolidated.*); download "
            f"{WEIGHTS} or its shards from the repository instead"
        )
    elif (name := some(".safetensors")) is not None:
        found = f"{name} is not one of the names that are read; {needs}"
    elif "config.json" in there:
        found = f"it has no weights; it {needs}"
    else:
        raise UserError(f"found {folder}, allowed: {ALLOWED}")
    raise UserError(f"{folder}: {found}")


def _json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
        if text.startswith(POINTER):
            raise UserError(f"{path}: {_pointer(path)}")
        values = json.loads(text)
    except OSError:
        raise UserError(f"{path}: found no such file; a Hugging Face model folder needs it") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, allowed: a mapping")
    return values


def _pointer(path: Path) -> str:
    return f"found a pointer of git-lfs, not the file; run in {path.parent}: git lfs pull"


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor -> dtype, shape and place."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(max(8, len(POINTER)))
        if begin.startswith(POINTER):
            raise UserError(f"{path}: {_pointer(path)}")
        length = struct.unpack("<Q", begin[:8])[0] if len(begin) >= 8 else 0
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise UserError(f"{path}: {size:,} bytes that are no whole safetensors file; download it again")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{path}: its header is damaged; download it again") from None
    if size != (whole := 8 + length + max(ends, default=0)):
        raise UserError(f"{path}: found {size:,} bytes, its header tells {whole:,}; download it again")
    return header


def _check_quantization(folder: Path, config: dict[str, Any]) -> None:
    inner = config.get("text_config")
    settings = config.get("quantization_config") or (inner or {}).get("quantization_config")
    if not isinstance(settings, dict):
        return
    method = settings.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in settings else None)
    library = LIBRARIES.get(str(method))
    if library is not None and find_spec(library.split(".")[0]) is None:
        raise UserError(
            f"{folder}: its weights are quantized ({method}), which needs the package {library}; "
            "install it, or give the model in full precision"
        )
