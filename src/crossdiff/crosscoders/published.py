"""Crosscoders in the format of the paper's authors: read, and written.

The format is that of `science-of-finetuning/dictionary_learning` (docs/exchange.md): a folder with
config.json and model.safetensors, as their class puts it on the hub, or one file of weights, ``ae_*.pt``.
That file is only read without pickled code. Tensors keep their values; axes are put in our order.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crossdiff.config import MODELS
from crossdiff.crosscoders.model import BOTH, MIXED_CROSSCODER, MIXED_SAE, Crosscoder
from crossdiff.crosscoders.weights_file import pieces
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Their numbers of code normalisations, from 1 on.
NORMALISATIONS = ("crosscoder", "sae", "mixed", "none", "decoupled")
COMPILED = "_orig_mod."  # begins each name if the training was compiled
NEEDED = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
# What some versions write besides. ``target_rms`` and ``activation_std`` are already in the scale.
KNOWN = {
    *NEEDED,
    *("activation_mean", "activation_std", "activation_global_scale", "target_rms"),
    *("code_normalization_id", "k", "threshold"),
}
# Their class scales activations twice there, so codes would not mean the same.
SCALED_TWICE = "decoupled codes with scaled activations are not exchanged; allowed: unscaled ones"


class Published(NamedTuple):
    """A crosscoder that others trained."""

    crosscoder: Crosscoder
    k: int | None  # the active latents per token that its training aimed at; None for an L1 crosscoder


def is_published(path: Path) -> bool:
    """Whether a folder or file looks like the authors' format."""
    if path.is_dir():
        there = (path / WEIGHTS).exists() and (path / CONFIG).exists()
        return there and is_published_config(read_json(path / CONFIG))
    return path.exists() and (path.suffix == ".pt" or path.name == WEIGHTS)


def is_published_config(config: Any) -> bool:
    """Whether the content of a config.json is of the authors' class."""
    return isinstance(config, dict) and "activation_dim" in config and "dict_size" in config


def read_published(path: str | Path, layer: int, mapped: bool = False) -> Published:
    """Read a crosscoder in the authors' format, ready for inference at ``layer``, which the format lacks.

    ``path`` is the folder, or a file ``ae_*.pt`` of weights. If ``mapped``, the crosscoder's weights are
    views of the mapped file, in the file's type. It is then only good to be saved.

    Raises UserError for a file that holds pickled code or is damaged, and for tensors that are missing,
    unknown or of wrong shapes. It also does for more or less than two models, for decoupled codes with scaled
    activations, and for options of their class that Crossdiff does not have.
    """
    place = Path(path)
    tensors, config = _tensors(place), _config(place)
    models, d_model = _shape(tensors, place)
    normalisation = _normalisation(tensors, config, place)
    _check_options(config, place)
    crosscoder = Crosscoder(d_model, 0, layer, normalisation)  # without latents, which would take memory
    weights = {
        "encoder": tensors["encoder.weight"].permute(2, 0, 1),
        "encoder_bias": tensors["encoder.bias"],
        "decoder": tensors["decoder.weight"].permute(1, 0, 2),
        "decoder_bias": tensors["decoder.bias"],
    }
    with torch.no_grad():
        for name, tensor in weights.items():
            values = tensor if mapped else torch.empty(tensor.shape).copy_(tensor)
            setattr(crosscoder, name, nn.Parameter(values, requires_grad=False))
        if "threshold" in tensors:
            crosscoder.threshold.copy_(_fitting(tensors, "threshold", crosscoder.threshold.shape, place))
            crosscoder.threshold.clamp_(min=0)  # theirs is -1 while there is none
        if "activation_mean" in tensors and not tensors["activation_mean"].isnan().any():
            if crosscoder.decoupled:
                raise UserError(f"{place}: {SCALED_TWICE}")
            crosscoder.mean.copy_(_fitting(tensors, "activation_mean", (models, d_model), place))
            crosscoder.scale.copy_(_fitting(tensors, "activation_global_scale", (models,), place))
    for name, tensor in crosscoder.state_dict().items():
        if not all(piece.isfinite().all() for piece in pieces(tensor)):
            raise UserError(f"{place}: {name} holds values that are NaN or infinite")
    k = int(_fitting(tensors, "k", (), place)) if "k" in tensors else None
    return Published(crosscoder.eval().requires_grad_(False), k)


def write_published(
    crosscoder: Crosscoder, k: int | None, folder: str | Path, mark: Mapping[str, str] | None = None
) -> None:
    """Write a crosscoder as the authors' class reads it: config.json and model.safetensors in ``folder``.

    ``k`` makes it one of their BatchTopK crosscoders, None one of their L1 crosscoders, which have no
    threshold. ``mark`` is put into the weights' metadata. Raises UserError for what their class can't hold: a
    difference, thresholds of single latents, decoupled codes with scaled activations, and a threshold without
    k.
    """
    if crosscoder.target != BOTH:
        raise UserError("the authors' format holds crosscoders of both models, found one of the difference")
    if crosscoder.has_thresholds:
        raise UserError("the authors' format has one threshold, found one for each latent")
    scaled = bool(crosscoder.mean.any()) or bool((crosscoder.scale != 1).any())
    if crosscoder.decoupled and scaled:
        raise UserError(f"the authors' format: {SCALED_TWICE}")
    if k is None and bool(crosscoder.threshold.any()):
        raise UserError("the authors' format has a threshold with BatchTopK alone, found one without k")
    number = NORMALISATIONS.index(crosscoder.code_normalisation) + 1
    nothing = torch.full_like(crosscoder.mean, torch.nan)
    variance = (1 / crosscoder.scale.square())[:, None] / crosscoder.d_model  # of which they keep the root
    tensors = {
        "encoder.weight": crosscoder.encoder.permute(1, 2, 0),
        "encoder.bias": crosscoder.encoder_bias,
        "decoder.weight": crosscoder.decoder.permute(1, 0, 2),
        "decoder.bias": crosscoder.decoder_bias,
        # NaN says that activations are taken as they are.
        "activation_mean": crosscoder.mean if scaled else nothing,
        "activation_std": variance.sqrt().expand_as(crosscoder.mean) if scaled else nothing.clone(),
        "activation_global_scale": crosscoder.scale,
        "target_rms": torch.tensor(1.0),
        "code_normalization_id": torch.tensor(number),
    }
    config: dict[str, Any] = {
        "activation_dim": crosscoder.d_model,
        "dict_size": crosscoder.latents,
        "num_layers": len(MODELS),
        "code_normalization": crosscoder.code_normalisation.upper(),
        "target_rms": 1.0,
    }
    if k is not None:
        config["k"] = k
        tensors |= {"k": torch.tensor(k, dtype=torch.int), "threshold": crosscoder.threshold}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(Path(folder) / WEIGHTS) as weights, atomic_path(Path(folder) / CONFIG) as text:
        save_file(whole, weights, metadata=dict(mark or {}))
        text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(path: Path) -> dict[str, Tensor]:
    file = path / WEIGHTS if path.is_dir() else path
    found: Any
    try:
        if file.suffix == ".safetensors":
            found = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a whole file of weights ({first_line(error)})") from error
    except Exception as error:  # torch has no class of its own for each of these
        raise UserError(
            f"{file}: holds more than tensors, or is damaged ({first_line(error)}); allowed: weights without "
            "pickled code"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise UserError(f"{file}: found no table of tensors, allowed: the weights of a crosscoder")
    named = {str(name).removeprefix(COMPILED): tensor for name, tensor in found.items()}
    missing = [name for name in NEEDED if name not in named]
    unknown = sorted(named.keys() - KNOWN)
    if missing or unknown:
        told = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which is unknown here"
        raise UserError(f"{file}: {told}; allowed: a crosscoder of dictionary_learning")
    return named


def _config(path: Path) -> dict[str, Any]:
    """The arguments of their class, which stand next to the weights on the hub. Empty for a file alone."""
    file = (path if path.is_dir() else path.parent) / CONFIG
    if path.suffix == ".pt" or not file.exists():
        return {}
    found = read_json(file)
    if not isinstance(found, dict):
        raise UserError(f"{file}: found no table of arguments, allowed: the config.json of a crosscoder")
    return found


def _shape(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """The number of models and the width, by which all weights must fit."""
    encoder = tensors["encoder.weight"]
    if encoder.dim() != 3 or encoder.shape[0] != len(MODELS):
        raise UserError(
            f"{path}: encoder.weight: found the shape {tuple(encoder.shape)}, "
            "allowed: (2, d_model, latents), base first"
        )
    models, d_model, latents = encoder.shape
    _fitting(tensors, "encoder.bias", (latents,), path)
    _fitting(tensors, "decoder.weight", (models, latents, d_model), path)
    _fitting(tensors, "decoder.bias", (models, d_model), path)
    return models, d_model


def _fitting(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], path: Path) -> Tensor:
    if name not in tensors:
        raise UserError(f"{path}: lacks {name}; allowed: a crosscoder of dictionary_learning")
    if tuple(tensors[name].shape) != tuple(shape):
        raise UserError(
            f"{path}: {name}: found the shape {tuple(tensors[name].shape)}, allowed: {tuple(shape)}"
        )
    return tensors[name]


def _normalisation(tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> str:
    """The code normalisation, by its number in the weights, else by its name; else the oldest files' one."""
    if "code_normalization_id" in tensors:
        number = int(_fitting(tensors, "code_normalization_id", (), path))
        if not 1 <= number <= len(NORMALISATIONS):
            raise UserError(
                f"{path}: code_normalization_id: found {number}, allowed: 1 to {len(NORMALISATIONS)}"
            )
        return NORMALISATIONS[number - 1]
    name = str(config.get("code_normalization", NORMALISATIONS[0])).lower()
    if name not in NORMALISATIONS:
        raise UserError(f"{path}: code_normalization: found {name}, allowed: {', '.join(NORMALISATIONS)}")
    return name


def _check_options(config: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for arguments of their class that Crossdiff does not have."""
    allowed: dict[str, list[Any]] = {
        "encoder_layers": [None, [0, 1]],
        "num_decoder_layers": [None, len(MODELS)],
        "num_layers": [len(MODELS)],
        "code_normalization_alpha_sae": [None, MIXED_SAE],
        "code_normalization_alpha_cc": [None, MIXED_CROSSCODER],
        "latent_processor": [None],
    }
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            shown = " or ".join(str(value) for value in values if value is not None) or "none"
            raise UserError(f"{path}: {key}: found {config[key]}, allowed: {shown}")
