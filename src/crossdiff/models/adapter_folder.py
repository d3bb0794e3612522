"""The folder of a LoRA adapter: its configuration, and the base model that it belongs to. Torch-free."""

import json
from pathlib import Path
from typing import Any

from crossdiff.config import Adapter, Gguf, GivenModel
from crossdiff.errors import UserError, first_line
from crossdiff.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from crossdiff.models.weight_files import check_once, read_tensors, within

BASE_OF_ADAPTER = "base_model_name_or_path"  # key of adapter_config.json
METHODS = ("LORA",)  # the kinds of adapters (peft_type) that are supported
# How training may have begun (init_lora_weights). Others change the base by what the folder does not hold.
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "pissa", "olora")


def read_adapter(folder: str | Path) -> dict[str, Any]:
    """The values of a folder's adapter_config.json.

    Raises UserError for a folder without an adapter or with a kind that is not supported.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder; an adapter's holds {ADAPTER_CONFIG}")
    try:
        values = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        whole = f"; it holds a whole model: give it as folder: {folder}"
        inside = whole if (folder / "config.json").exists() else within(folder, ADAPTER_CONFIG)
        raise UserError(f"{folder}: not an adapter's folder; it needs {ADAPTER_CONFIG}{inside}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG}: can't be read ({first_line(error)})") from None
    if not isinstance(values, dict) or values.get("peft_type") not in METHODS:
        found = values.get("peft_type") if isinstance(values, dict) else None
        raise UserError(f"{folder / ADAPTER_CONFIG}: peft_type: found {found}, allowed: {', '.join(METHODS)}")
    if (begun := values.get("init_lora_weights")) not in BEGINNINGS:
        changed = f"init_lora_weights: found {begun}, which changes the base's weights"
        todo = "save the adapter with path_initial_model_for_weight_conversion"
        raise UserError(f"{folder / ADAPTER_CONFIG}: {changed}; {todo}")
    if values.get("alora_invocation_tokens"):
        problem = "alora_invocation_tokens: an adapter that starts at such a token is not supported"
        raise UserError(f"{folder / ADAPTER_CONFIG}: {problem}")
    return values


def check_adapter(folder: str | Path, adapter: Adapter, base: GivenModel, key: str) -> None:
    """Check that a folder holds a whole adapter that was trained on ``base``.

    ``key`` is the adapter's key in the config. The base is compared by name: the repository on the hub, or
    the last part of a path. Raises UserError for another base, and for an adapter without its weights.
    """
    named = read_adapter(folder).get(BASE_OF_ADAPTER)
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        pickled = Path(folder, "adapter_model.bin")
        has = (
            "; it has adapter_model.bin, which may run code; save it again with peft"
            if pickled.exists()
            else ""
        )
        raise UserError(f"{folder}: not a whole adapter; it needs {ADAPTER_WEIGHTS}{has}")
    check_once(read_tensors(Path(folder, ADAPTER_WEIGHTS)), "", str(folder))
    if not named:
        return  # nothing to compare with; the shapes of its tensors are still checked
    if adapter.trained_on is not None:
        if adapter.trained_on != named:
            raise UserError(
                f"{key}.trained_on: found {adapter.trained_on}, but the adapter names the base {named}"
            )
    elif not _same(named, base):
        raise UserError(
            f"{key}: adapter_config.json names the base {named}, but the base here is {_name(base)}; "
            f"if these are the same weights, set trained_on: {named}"
        )


def _name(base: GivenModel) -> str:
    """What the config calls a base model: its repository, path, package, or kind of source."""
    if base.hub:
        return base.hub.name
    if base.gguf:
        return _of_gguf(base.gguf)
    if base.package:
        return base.package.key
    return base.folder or "made by Crossdiff"


def _of_gguf(gguf: Gguf) -> str:
    return f"{gguf.hub.name}, {gguf.file}" if gguf.hub else gguf.file


def _same(named: str, base: GivenModel) -> bool:
    """Whether the ``named`` base (a repository or a path) is the one of the config, as far as names tell."""
    if base.hub and named.count("/") == 1 and not named.startswith((".", "/", "~")):
        return named.lower() == base.hub.name.lower()
    if base.hub or base.folder:
        return _last(named) == _last(base.hub.name if base.hub else str(base.folder))
    return False


def _last(path: str) -> str:
    """The last part of a path or repository; of a path in the hub's cache, the repository's."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return (cached or parts or [""])[-1].lower()
