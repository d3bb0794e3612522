"""Apply a LoRA adapter to a loaded base model (Hu et al., arXiv 2106.09685).

The model keeps its class and its modules' names: the adapted linear layers get two small matrices each.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from crossdiff.errors import UserError, first_line
from crossdiff.models.adapter_folder import BASE_OF_ADAPTER, read_adapter
from crossdiff.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from crossdiff.models.replacements import embedding_rows
from crossdiff.models.tensors import stripped

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NAMED = 3  # number of tensors that an error names
# peft saves resized embeddings under these names too, next to their own.
COPIES = (".modules_to_save.weight", ".original_module.weight")
PREFIX = "base_model.model."  # of every tensor in an adapter's file


def base_folder(folder: str | Path) -> Path:
    """The folder with the weights: the base's if ``folder`` holds an adapter, else ``folder`` itself."""
    folder = Path(folder)
    return folder / read_adapter(folder)[BASE_OF_ADAPTER] if is_adapter(folder) else folder


def with_adapter(model: "PreTrainedModel", folder: str | Path) -> "PreTrainedModel":
    """Apply the adapter in ``folder`` to its base ``model``, which is changed in place.

    The adapter gets the precision of the layers that it adapts. A model whose adapter holds more rows of the
    embeddings gets these rows first. Raises UserError for an adapter whose tensors are not those that its
    base needs.
    """
    _applied(model, folder, exact=False)
    return model


def merged(model: "PreTrainedModel", folder: str | Path) -> "PreTrainedModel":
    """The plain sum of ``model`` and the adapter in ``folder``, in the precision of ``model``.

    ``model`` is changed in place. Raises UserError as ``with_adapter`` does.
    """
    return _applied(model, folder, exact=True).merge_and_unload()


def _applied(model: "PreTrainedModel", folder: str | Path, exact: bool) -> "PeftModel":
    """``exact`` keeps the adapter in float32 next to layers of 16 bits."""
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    origin = Path(folder) / ADAPTER_WEIGHTS
    try:
        grow_embeddings(model, folder)
        _check_keys(folder)
        settings: Any = PeftConfig.from_pretrained(str(folder))
        settings.inference_mode = True
        # Weights of a model without memory (device meta) can't be computed or copied to, only replaced.
        replace = model.device.type == "meta"
        if replace:
            settings.init_lora_weights = False
        adapted = PeftModel(model, settings, autocast_adapter_dtype=exact)
        weights = {
            _inner(name): value for name, value in load_peft_weights(str(folder), device="cpu").items()
        }
        found: Any = set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=replace)
    except RuntimeError as error:
        raise UserError(f"{origin}: {_mismatch(error)}") from error
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{origin}: can't be applied to its base ({first_line(error)})") from error
    if not any(value.any() for name, value in weights.items() if "_A" not in name):
        raise UserError(
            f"{origin}: the adapter changes nothing, because all its B matrices are 0; train it first"
        )
    missing = [name for name in found.missing_keys if ".default" in name]
    unknown = [name for name in found.unexpected_keys if not name.endswith(COPIES)]
    problems = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for names, what in ((missing, "missing"), (unknown, "that the model does not know"))
        if names
    ]
    if problems:
        raise UserError(f"{origin}: its tensors are not those of its base's layers: {' and '.join(problems)}")
    return adapted


def _check_keys(folder: str | Path) -> None:
    """Raise UserError for settings that peft does not know. It would ignore them."""
    from peft import LoraConfig, __version__

    known = {field.name for field in fields(LoraConfig)}
    unknown = sorted(key for key, value in read_adapter(folder).items() if key not in known and value)
    if unknown:
        problem = f"{unknown[0]}: peft {__version__} does not know this setting; install a newer peft"
        raise UserError(f"{Path(folder) / ADAPTER_CONFIG}: {problem}")


def _inner(name: str) -> str:
    """The name of an adapter's tensor without the prefixes of what wrapped its model."""
    before, prefix, inner = name.partition(PREFIX)
    return prefix + stripped(inner) if prefix and stripped(before) in ("", before) else name


def _mismatch(error: RuntimeError) -> str:
    found = re.search(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)", str(error))
    if not found:
        return f"can't be applied to its base ({first_line(error)})"
    name, there, wanted = found.groups()
    return f"its tensors do not fit the base: {name} is {there} instead of {wanted}"


def grow_embeddings(model: "PreTrainedModel", folder: str | Path) -> None:
    """Give ``model`` the rows of its embeddings that the adapter in ``folder`` brings along.

    Raises UserError if the adapter holds new rows of one embedding and not of the other.
    """
    rows = added_rows(model, folder)
    wanted = max(rows.values(), default=0)
    if wanted <= embedding_rows(model):
        return
    short = [name for name in _embeddings(model) if rows.get(name, 0) < wanted]
    if short:
        problem = f"it adds tokens, but has no new rows for {short[0]}"
        raise UserError(f"{Path(folder) / ADAPTER_WEIGHTS}: {problem}; train and save both embeddings")
    model.resize_token_embeddings(wanted, mean_resizing=False)


def added_rows(model: "PreTrainedModel", folder: str | Path) -> dict[str, int]:
    """Module name -> the rows that the adapter's file holds of this embedding, where it holds some."""
    rows = {}
    with safe_open(Path(folder) / ADAPTER_WEIGHTS, framework="pt") as tensors:
        for name in _embeddings(model):
            # The second name is that of an embedding with an adapter of its own.
            for key in {f"{PREFIX}{name}.weight", f"{PREFIX}{name}.base_layer.weight"} & {*tensors.keys()}:
                rows[name] = tensors.get_slice(key).get_shape()[0]
    trained: Any = read_adapter(folder).get("trainable_token_indices") or {}
    if isinstance(trained, list):
        trained = dict.fromkeys(list(_embeddings(model))[:1], trained)
    for name in _embeddings(model):
        for part, ids in trained.items():
            if name == part or name.endswith(f".{part}"):
                rows[name] = max(ids) + 1
    return rows


def _embeddings(model: "PreTrainedModel") -> dict[str, Any]:
    """Module name -> the input embedding, and the output embedding unless its weight is the same."""
    inputs: Any = model.get_input_embeddings()
    outputs: Any = model.get_output_embeddings()
    wanted = [inputs] + ([outputs] if outputs is not None and outputs.weight is not inputs.weight else [])
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: module for module in wanted}
