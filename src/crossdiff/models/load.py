"""Load a model from a plain Hugging Face folder."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from crossdiff.device import device
from crossdiff.errors import UserError, first_line
from crossdiff.models.tensors import WRAPPER, has_adapter, stripped, unknown
from crossdiff.models.weight_files import check_folder, tensor_names
from crossdiff.provenance import storage

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

NAMED = 3  # number of tensors that an error names
SAMPLED = 64  # values of each tensor in a model's digest


def load_model(folder: str | Path, dtype: torch.dtype) -> "PreTrainedModel":
    """A causal language model in evaluation mode on the best device. No code from the folder is run.

    The record of the running job gets its digest (``digest``), and how many of its tensors lost a wrapper's
    prefix. Raises UserError if the folder holds no such
    model, or not its weights (``read_weights``).
    """
    wrapped = _wrapped(folder)
    model = _from_folder(folder, wrapped, dtype=dtype)
    if storage.current_job is not None:
        storage.current_job.loaded[str(folder)] = {"digest": digest(model), "stripped_prefixes": len(wrapped)}
    # transformers wraps the method ``to`` in a way that hides ``self``.
    return model.to(device()).eval()  # type: ignore[arg-type]


def digest(model: "PreTrainedModel") -> str:
    """A digest of the loaded parameters and buffers, as 32 hexadecimal digits.

    It covers all names, shapes and types, and SAMPLED evenly spaced values of each tensor. So it tells apart
    weights that were read from weights that were filled in, in milliseconds, even if files are mapped into
    memory. Single values of a file need no further digest, because the record has one of the whole folder.
    """
    whole = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        places = torch.linspace(0, max(0, len(flat) - 1), min(SAMPLED, len(flat)), dtype=torch.float64).long()
        sample = flat[places.to(flat.device)].cpu().contiguous().view(torch.uint8).numpy().tobytes()
        whole.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode() + sample)
    return whole.hexdigest()[:32]


def check_weights(folder: str | Path) -> None:
    """Compare the names and shapes of a folder's tensors with those of its model.

    Reads only the headers of the files, so it needs no memory. Raises UserError as ``load_model`` does.
    """
    _from_folder(folder, _wrapped(folder), dtype=torch.bfloat16, device_map="meta")


def _wrapped(folder: str | Path) -> list[str]:
    """The tensors whose names begin with prefixes of a wrapper, which are stripped. None with an adapter."""
    check_folder(Path(folder))
    names = tensor_names(Path(folder))
    wrapped = [name for name in names if stripped(name) != name]
    if not wrapped or has_adapter(names):
        return []
    said = f"{wrapped[0]} is {stripped(wrapped[0])}"
    log.info("%s: prefixes of %d of %d tensors are stripped (%s)", folder, len(wrapped), len(names), said)
    return wrapped


def _from_folder(folder: str | Path, wrapped: list[str], **options: Any) -> "PreTrainedModel":
    if wrapped:
        options["key_mapping"] = {WRAPPER: ""}
    try:
        return read_weights(folder, str(folder), use_safetensors=True, **options)
    except (torch.OutOfMemoryError, MemoryError, UserError):
        raise
    except (OSError, ValueError, SafetensorError, ImportError, RuntimeError, TypeError, LookupError) as error:
        raise UserError(f"{folder}: not a usable model folder ({first_line(error)})") from error


def model_class(config: "PreTrainedConfig") -> type:
    """The class that loads a model: of language models, or of those that read images, too.

    Raises ValueError for other kinds of models.
    """
    kind = config.model_type
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    raise ValueError(f"model_type: found {kind}, which is no language model that transformers knows")


def read_weights(folder: str | Path, origin: str, **options: Any) -> "PreTrainedModel":
    """The causal language model of a folder.

    ``options`` are passed to ``from_pretrained``. ``origin`` names the model in errors. Raises UserError for
    a tensor (other than a tied one) that the files lack or hold in another shape: transformers would fill it
    with random numbers and go on. Raises it for one that the model does not know, too, unless no job would
    use it (``models.tensors.UNUSED``).
    """
    chosen = {name: options[name] for name in ("gguf_file",) if name in options}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **chosen)
    loaded: Any = model_class(config).from_pretrained(  # type: ignore[attr-defined]
        folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    model, found = loaded
    problems = []
    if missing := sorted(found["missing_keys"]):
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if mismatched := sorted(found["mismatched_keys"], key=lambda entry: entry[0]):
        shapes = [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in mismatched]
        problems.append(f"{len(mismatched)} of another shape ({_first(shapes)})")
    text, left = model.config.get_text_config(), sorted(found["unexpected_keys"])
    predicting = getattr(text, "num_nextn_predict_layers", None) or 0
    if extra := unknown(left, text.num_hidden_layers, predicting):
        problems.append(f"{len(extra)} that the model does not know ({_first(extra)})")
    if problems:
        wanted = f"its tensors are not those of {type(model).__name__} as config.json describes it"
        raise UserError(f"{origin}: {wanted}: {' and '.join(problems)}{_hint(extra)}")
    if left:
        log.info("%s: %d tensors are not used (%s)", origin, len(left), _first(left))
    return model


def _hint(extra: list[str]) -> str:
    adapter = "; they belong to an adapter (LoRA): give it as adapter: {base: ..., folder: ...}"
    return adapter if has_adapter(extra) else ""


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
