"""Load a model from a plain Hugging Face folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from crossdiff.errors import UserError, first_line
from crossdiff.models.adapter_folder import BASE_OF_ADAPTER, read_adapter
from crossdiff.models.adapters import base_folder, with_adapter
from crossdiff.models.classes import model_class
from crossdiff.models.digests import digest
from crossdiff.models.placement import Places, place, undispatched
from crossdiff.models.quantised import BITSANDBYTES, asked_bits, check_bits, quantisation
from crossdiff.models.tensors import MASK_DIMENSIONS, WRAPPER, has_adapter, stripped, unknown
from crossdiff.models.tokenizers import read_configuration
from crossdiff.models.weight_files import check_folder, check_once, read_config, stored_tensors
from crossdiff.provenance import storage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# What transformers raises for files that it can't read, or that do not fit together.
UNUSABLE = (
    *(OSError, ValueError, SafetensorError, ImportError, RuntimeError, TypeError, LookupError),
    *(ArithmeticError, AttributeError),
)
NAMED = 3  # number of tensors that an error names


def load_model(
    folder: str | Path, dtype: torch.dtype, devices: Sequence[torch.device] | None = None
) -> "PreTrainedModel":
    """A causal language model in evaluation mode. No code from the folder is run.

    It goes where ``placement.place`` says: to the first of ``devices`` that has room for it, or over all of
    them. Left out, these are all GPUs of the job, or the CPU. ``parts.device_of_inputs`` tells where it
    reads. An adapter in the folder is applied to its base. The record of the running job gets the model's
    digest (``digest``), and how many of its tensors lost a wrapper's prefix. Raises UserError if the folder
    holds no such model, or not its weights (``read_weights``, ``with_adapter``), and as ``place`` does.
    """
    weights = base_folder(folder)
    wrapped = _wrapped(weights)
    with _usable(weights):
        where = place(folder, dtype, devices)
    if quantisation(read_config(weights)) or asked_bits(folder):
        model = _of_few_bits(folder, wrapped, where, dtype)
    elif isinstance(where, torch.device):  # transformers wraps ``to`` in a way that hides ``self``
        model = _from_folder(folder, wrapped, dtype=dtype).to(where)  # type: ignore[arg-type]
    else:
        model = _from_folder(folder, wrapped, dtype=dtype, device_map=where)
    if storage.current_job is not None:
        adapter = {} if weights == Path(folder) else read_adapter(folder) | {BASE_OF_ADAPTER: None}
        loaded = {"digest": digest(model, adapter), "stripped_prefixes": len(wrapped)}
        storage.current_job.loaded[str(folder)] = loaded
    return model.eval()


def _of_few_bits(
    folder: str | Path, wrapped: list[str], where: torch.device | Places, dtype: torch.dtype
) -> "PreTrainedModel":
    """A model that is stored or loaded in few bits.

    Loading rounds to 8 bits as LLM.int8() does (Dettmers et al., arXiv 2208.07339), and to 4 bits as NF4 of
    QLoRA (arXiv 2305.14314). Some methods give weights of 16 bits where they can't compute with fewer.
    """
    from transformers import BitsAndBytesConfig

    config = read_config(base_folder(folder))
    options: dict[str, Any] = {}
    method = quantisation(config) or BITSANDBYTES
    if bits := asked_bits(folder):
        check_bits(bits, f"{folder}: bits", config)
        ways: dict[int, dict[str, Any]] = {
            8: {"load_in_8bit": True},
            4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
        }
        options["quantization_config"] = BitsAndBytesConfig(**ways[bits])
    try:
        # It can't be moved to the device later.
        model: Any = _from_folder(folder, wrapped, dtype=dtype, device_map=where, **options)
    except RuntimeError as error:
        raise UserError(f"{folder}: quantised by {method}, can't be loaded ({first_line(error)})") from error
    plain = all(weight.is_floating_point() and weight.itemsize > 1 for weight in model.parameters())
    return model.to(dtype) if plain else model


def check_weights(folder: str | Path) -> None:
    """Compare the names and shapes of a folder's tensors with those of its model.

    Reads only the headers of the files, so it needs no memory. The tensors of a quantised model are compared
    when it is loaded. Raises UserError as ``load_model`` does.
    """
    weights = base_folder(folder)
    wrapped = _wrapped(weights)
    if quantisation(read_config(weights)) is None:
        _from_folder(folder, wrapped, dtype=torch.bfloat16, device_map="meta")


def _wrapped(folder: Path) -> list[str]:
    """The tensors whose names begin with prefixes of a wrapper, which are stripped. None with an adapter."""
    check_folder(folder)
    names = [tensor.name for tensor in stored_tensors(folder)]
    wrapped = [name for name in names if stripped(name) != name]
    if not wrapped or has_adapter(names):
        return []
    said = f"{wrapped[0]} is {stripped(wrapped[0])}"
    log.info("%s: prefixes of %d of %d tensors are stripped (%s)", folder, len(wrapped), len(names), said)
    return wrapped


def _from_folder(folder: str | Path, wrapped: list[str], **options: Any) -> "PreTrainedModel":
    if wrapped:
        options["key_mapping"] = {WRAPPER: ""}
    weights = base_folder(folder)
    with _usable(weights):
        model = read_weights(weights, str(weights), use_safetensors=True, **options)
    if weights == Path(folder):
        return model
    with undispatched(model):
        return with_adapter(model, folder)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Raise UserError for what transformers raises about the files of a folder."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, UserError):
        raise
    except UNUSABLE as error:
        raise UserError(f"{folder}: not a usable model folder ({first_line(error)})") from error


def read_weights(folder: str | Path, origin: str, **options: Any) -> "PreTrainedModel":
    """The causal language model of a folder.

    ``options`` are passed to ``from_pretrained``. ``origin`` names the model in errors. Raises UserError for
    a tensor (other than a tied one) that the files lack or hold in another shape: transformers would fill it
    with random numbers and go on. Raises it for a tensor that is there twice, and for one that the model does
    not know, unless no job would use it (``models.tensors``).
    """
    chosen = {name: options[name] for name in ("gguf_file",) if name in options}
    config = read_configuration(folder, **chosen)
    loaded: Any = model_class(config).from_pretrained(  # type: ignore[attr-defined]
        folder,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, found = loaded
    stored = [] if chosen else stored_tensors(Path(folder))
    check_once(stored, model.base_model_prefix, origin)
    problems = []
    if missing := sorted(found["missing_keys"]):
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if mismatched := sorted(found["mismatched_keys"], key=lambda entry: entry[0]):
        shapes = [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in mismatched]
        problems.append(f"{len(mismatched)} of another shape ({_first(shapes)})")
    text, left = model.config.get_text_config(), sorted(found["unexpected_keys"])
    predicting = getattr(text, "num_nextn_predict_layers", None) or 0
    masks = {stripped(tensor.name) for tensor in stored if len(tensor.shape) == MASK_DIMENSIONS}
    if extra := unknown(left, text.num_hidden_layers, predicting, masks):
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
