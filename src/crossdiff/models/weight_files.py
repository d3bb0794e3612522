"""Check a model's folder by its file names and headers, before any of it is loaded. Torch-free."""

import json
import re
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError
from crossdiff.models.files import ADAPTER_CONFIG, model_files
from crossdiff.models.quantised import check_quantisation
from crossdiff.models.tensors import stripped

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
ALLOWED = "a Hugging Face folder with config.json"
POINTER = b"version https://git-lfs"
SHOWN = 60  # characters of a wrong value in an error
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors format limits it


def check_folder(folder: Path) -> None:
    """Raise UserError for a folder that holds no whole model, and say what it holds instead."""
    if not folder.is_dir():
        hint = f"; give it as gguf: {{file: {folder}}}" if folder.suffix == ".gguf" else ""
        raise UserError(f"found {folder}, allowed: {ALLOWED}{hint}")
    check_names([path.name for path in folder.iterdir()], str(folder), str(folder))
    for path in model_files(folder):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise UserError(f"{path}: {_pointer(path)}")
    if (folder / GENERATION).exists():
        _json(folder / GENERATION)  # transformers would leave out one that it can't read
    check_quantisation(read_config(folder), str(folder))
    stored_tensors(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json.

    Raises UserError if it is missing, or if it or a section that is read without transformers is no mapping.
    """
    path = folder / "config.json"
    values = _json(path)
    text, key = values.get("text_config"), "quantization_config"
    sections = {"text_config": text, key: values.get(key)}
    if isinstance(text, dict):
        sections[f"text_config.{key}"] = text.get(key)
    for name, section in sections.items():
        if not isinstance(section, dict | None):
            raise UserError(f"{path}: {name}: found {json.dumps(section)[:SHOWN]}, allowed: a mapping")
    return values


def check_gguf(path: Path, name: str) -> None:
    """Raise UserError if ``path`` is no whole GGUF file. ``name`` names it in errors."""
    if not path.is_file():
        raise UserError(f"{name}: found no such file")
    with path.open("rb") as file:
        begin = file.read(len(POINTER))
    if begin.startswith(POINTER):
        raise UserError(f"{name}: {_pointer(path)}")
    if not begin.startswith(b"GGUF"):
        raise UserError(f"{name}: not a usable GGUF file (it begins with {begin[:4]!r})")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise UserError(f"{name}: one part of a GGUF file; join the parts with llama-gguf-split --merge")


class StoredTensor(NamedTuple):
    """A tensor of a weight file."""

    name: str
    file: str  # in the model's folder
    shape: tuple[int, ...]
    size: int  # bytes


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """All tensors of the weight files, from their headers. A name may come twice, from two files.

    Raises UserError for a file that is missing, cut off or a pointer of git-lfs.
    """
    return [tensor for file in _files(folder) for tensor in read_tensors(file)]


def check_once(tensors: Iterable[StoredTensor], prefix: str, origin: str) -> None:
    """Raise UserError if files hold a tensor of a model twice. Which one is loaded would be a matter of luck.

    Names are compared without the prefixes of wrappers, and without ``prefix``, the name of the part of the
    model that lies below its head. ``origin`` names the model in errors.
    """
    there: dict[str, list[str]] = {}
    for tensor in tensors:
        name = stripped(tensor.name).removeprefix(f"{prefix}.")
        there.setdefault(name, []).append(f"{tensor.name} in {tensor.file}")
    if repeated := [places for places in there.values() if len(places) > 1]:
        first = " and ".join(repeated[0])
        raise UserError(
            f"{origin}: tensors that are there twice: {len(repeated)} ({first}); keep one of each"
        )


def _files(folder: Path) -> list[Path]:
    """The weight files, as transformers chooses them."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    places = _json(folder / INDEX).get("weight_map", {})
    given = places.values() if isinstance(places, dict) else [places]
    wrong = [name for name in given if not isinstance(places, dict) or not isinstance(name, str)]
    if wrong:
        found = json.dumps(wrong[0])[:SHOWN]
        allowed = "allowed: each tensor's name with that of its file; download it again"
        raise UserError(f"{folder / INDEX}: weight_map: found {found}, {allowed}")
    shards = sorted(set(places.values()))
    missing = [name for name in shards if not (folder / name).exists()]
    if missing or not shards:
        lacks = f"{len(missing)} of its {len(shards)} shards are missing ({', '.join(missing[:3])})"
        raise UserError(f"{folder / INDEX}: {lacks}; copy or download them")
    return [folder / name for name in shards]


def within(folder: Path, file: str) -> str:
    """What an error adds about subfolders that hold ``file``, such as checkpoints and cached snapshots."""
    places = [*folder.glob(f"*/{file}"), *folder.glob(f"snapshots/*/{file}")]
    found = sorted(str(path.parent.relative_to(folder)) for path in places)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"; found one in {', '.join(found[:3])}{more}: name that folder" if found else ""


def has_weights(names: Iterable[str]) -> bool:
    """Whether one of the file ``names`` is that of weights, or of their index, which transformers reads."""
    return any(name in (WEIGHTS, INDEX) for name in names)


def check_names(there: Collection[str], name: str, origin: str) -> None:
    """Raise UserError if none of the file names ``there`` is that of weights which are read.

    ``name`` names the model in errors. ``origin`` is its folder or its name on the hub.
    """
    if has_weights(there):
        return

    def some(ending: str) -> str | None:
        return min((name for name in there if name.endswith(ending)), default=None)

    needs = f"needs config.json and {WEIGHTS} or its shards"
    if ADAPTER_CONFIG in there:
        where = f"{{base: ..., {'hub: ...' if name != origin else f'folder: {origin}'}}}"
        found = f"it is an adapter (LoRA), no whole model; give it as adapter: {where}"
    elif any(name.startswith("pytorch_model") and name.endswith(".bin") for name in there):
        convert = (
            f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"[c.from_pretrained('{origin}').save_pretrained('{origin}-safetensors') for c in (M, T)]"
        )
        found = f'it has pickled weights only (pytorch_model.bin); convert them: python -c "{convert}"'
    elif (file := some(".gguf")) is not None:
        where = f"{{file: {file}, hub: ...}}" if name != origin else f"{{file: {origin}/{file}}}"
        found = f"it holds a GGUF file, no Hugging Face model; give it as gguf: {where}"
    elif any(name.startswith("consolidated") for name in there):
        found = (
            "it has the weights in the format of their authors only (consolidated.*); download "
            f"{WEIGHTS} or its shards from the repository instead"
        )
    elif (file := some(".safetensors")) is not None:
        found = f"{file} is not one of the names that are read; it {needs}"
    elif "config.json" in there:
        found = f"it has no weights; it {needs}"
    elif name != origin:
        found = "it has no config.json; correct its name, revision or subfolder"
    else:
        raise UserError(f"found {name}, allowed: {ALLOWED}{within(Path(origin), 'config.json')}")
    raise UserError(f"{name}: {found}")


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


def read_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, from its header.

    Raises UserError for a file that is cut off or a pointer of git-lfs.
    """
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
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            tensors = [
                StoredTensor(name, path.name, tuple(entry["shape"]), end - entry["data_offsets"][0])
                for (name, entry), end in zip(header.items(), ends, strict=True)
            ]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{path}: its header is damaged; download it again") from None
    if size != (whole := 8 + length + max(ends, default=0)):
        raise UserError(f"{path}: found {size:,} bytes, its header tells {whole:,}; download it again")
    return tensors
