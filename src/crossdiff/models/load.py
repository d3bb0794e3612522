"""Load a model from a plain Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from crossdiff.device import device
from crossdiff.errors import UserError, first_line
from crossdiff.models.adapters import base_folder, with_adapter
from crossdiff.models.quantised import check_quantisation, quantisation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMED = 3  # number of tensors that an error names


def load_model(folder: str | Path, dtype: torch.dtype) -> "PreTrainedModel":
    """A causal language model in evaluation mode on the best device. No code from the folder is run.

    An adapter in the folder is applied to its base. Raises UserError if the folder holds no such model, or
    not all of its weights (``read_weights``, ``with_adapter``).
    """
    if method := quantisation(base_folder(folder)):
        return _of_few_bits(folder, method, dtype).eval()
    # transformers wraps the method ``to`` in a way that hides ``self``.
    return _from_folder(folder, dtype=dtype).to(device()).eval()  # type: ignore[arg-type]


def _of_few_bits(folder: str | Path, method: str, dtype: torch.dtype) -> "PreTrainedModel":
    """A quantised model. Some methods give weights of 16 bits where they can't compute with fewer."""
    try:
        model: Any = _from_folder(folder, dtype=dtype, device_map=device())  # it can't be moved later
    except RuntimeError as error:
        raise UserError(f"{folder}: quantised by {method}, can't be loaded ({first_line(error)})") from error
    plain = all(weight.is_floating_point() and weight.itemsize > 1 for weight in model.parameters())
    return model.to(dtype) if plain else model


def check_weights(folder: str | Path) -> None:
    """Compare the names and shapes of a folder's tensors with those of its model.

    Reads only the headers of the files, so it needs no memory. The tensors of a quantised model are compared
    when it is loaded. Raises UserError as ``load_model`` does.
    """
    if quantisation(base_folder(folder)) is None:
        _from_folder(folder, dtype=torch.bfloat16, device_map="meta")


def _from_folder(folder: str | Path, **options: Any) -> "PreTrainedModel":
    weights = base_folder(folder)
    try:
        check_quantisation(weights, str(weights))
        model = read_weights(weights, str(weights), use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{weights}: not a usable model folder ({first_line(error)})") from error
    return model if weights == Path(folder) else with_adapter(model, folder)


def read_weights(folder: str | Path, origin: str, **options: Any) -> "PreTrainedModel":
    """The causal language model of a folder.

    ``options`` are passed to ``from_pretrained``. ``origin`` names the model in errors. Raises UserError for
    a tensor (other than a tied one) that the files lack or hold in another shape. transformers would fill it
    with random numbers and go on.
    """
    # Its annotation leaves out that ``output_loading_info`` makes it return a pair.
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    model, found = loaded
    problems = []
    if missing := sorted(found["missing_keys"]):
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if mismatched := sorted(found["mismatched_keys"], key=lambda entry: entry[0]):
        shapes = [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in mismatched]
        problems.append(f"{len(mismatched)} of another shape ({_first(shapes)})")
    if problems:
        unknown = sorted(found["unexpected_keys"])
        rest = f"; {len(unknown)} that the model does not know ({_first(unknown)})" if unknown else ""
        wanted = f"its tensors are not those of {type(model).__name__} as config.json describes it"
        raise UserError(f"{origin}: {wanted}: {' and '.join(problems)}{rest}")
    return model


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
