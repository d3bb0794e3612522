"""The crosscoder: one dictionary of latents for both models (docs/method.md 1 to 4).

Each latent has a decoder direction per model. An activation x is (batch, model, d_model) with model 0 = base
and 1 = chat. A code f is (batch, latents).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossdiff.config import BASE, CHAT, MODELS, CrosscoderSettings
from crossdiff.crosscoders.gradients import Pieces, norms_of
from crossdiff.crosscoders.limits import Limits
from crossdiff.crosscoders.selection import Encoder, Rounded, above
from crossdiff.crosscoders.sparse import Active, weighted_rows
from crossdiff.crosscoders.weights_file import save_weights
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, read_json, record_mark

# What a crosscoder reconstructs: both models' activations, or chat minus base (docs/method.md 22).
BOTH, DIFFERENCE = "both models", "difference"
MIXED_SAE, MIXED_CROSSCODER = 1.0, 0.1  # weights of the mixed code normalisation (docs/method.md 4)


class Known(NamedTuple):
    """What an optimiser computed in its pass over the weights, and the weights' versions at that time."""

    encoder: Rounded | None  # the encoder in bfloat16, if products use bfloat16
    norms: Tensor  # (latents, model): the decoder's norms
    versions: tuple[int, int]  # of encoder and decoder


class Crosscoder(nn.Module):
    """Encoder, decoder, and the scaling of the activations that they were trained on.

    ``encoder`` and ``decoder`` are (latents, model, d_model), so that the weights of one latent lie together
    in memory. The biases are (latents,) and (model, d_model).

    A scaled activation must exceed ``threshold`` to count at inference (BatchTopK). A threshold of 0 keeps
    every positive activation. With decoupled code normalisation each model has its own threshold. Then a
    latent may count for one model and not for the other. Some losses give each latent its own.

    ``partition`` names the classes of latents that the loss fixed, with their sizes, in the order of latents.
    It is empty for most losses. ``target`` says what is reconstructed. If that is the difference, activations
    on the crosscoder's scale are 0 for the base model and the difference for the chat model. ``limits`` says
    what of the results does not apply.
    """

    threshold: Tensor  # (), or (model,) if decoupled, or (latents,) after ``give_thresholds``
    mean: Tensor  # (model, d_model), subtracted from raw activations
    scale: Tensor  # (model,), multiplied with them afterwards

    def __init__(
        self,
        d_model: int,
        latents: int,
        layer: int,
        code_normalisation: str = "crosscoder",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.layer, self.code_normalisation, self.precision = layer, code_normalisation, precision
        self.encoder = nn.Parameter(torch.zeros(latents, len(MODELS), d_model))
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder = nn.Parameter(torch.zeros(latents, len(MODELS), d_model))
        self.decoder_bias = nn.Parameter(torch.zeros(len(MODELS), d_model))
        self.register_buffer("threshold", torch.zeros(len(MODELS)) if self.decoupled else torch.zeros(()))
        self.register_buffer("mean", torch.zeros(len(MODELS), d_model))
        self.register_buffer("scale", torch.ones(len(MODELS)))
        self.has_thresholds = False  # whether each latent has its own
        self.log_threshold: nn.Parameter | None = None  # (latents,), of thresholds that are learned
        self.partition: dict[str, int] = {}
        self.target = BOTH
        self.limits = Limits()
        # Filled for an optimiser that gathers gradients itself (``optimiser``), and by it.
        self.pieces: dict[str, Pieces] = {}
        self._known: Known | None = None

    def give_thresholds(self, learned: bool = False) -> None:
        """Give each latent a threshold of its own, 0 at first.

        If ``learned``, ``log_threshold`` is a weight, and the loss keeps ``threshold`` at its exponential.
        """
        self.threshold = self.threshold.new_zeros(self.latents)
        if learned:
            self.log_threshold = nn.Parameter(torch.full_like(self.threshold, -torch.inf))
        self.has_thresholds = True

    @property
    def decoupled(self) -> bool:
        """Whether each model has its own selection and threshold (docs/method.md 4)."""
        return self.code_normalisation == "decoupled"

    @property
    def d_model(self) -> int:
        """Width of one model's activations."""
        return self.decoder.shape[2]

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.decoder.shape[0]

    @property
    def reconstructs(self) -> dict[str, int]:
        """What is reconstructed: its name, and its place on the model axis."""
        return {"difference": CHAT} if self.target == DIFFERENCE else {"base": BASE, "chat": CHAT}

    @property
    def parts(self) -> list[str]:
        """The part of each latent in ``partition``, (latents,), or an empty list if there is none."""
        return [name for name, size in self.partition.items() for _ in range(size)]

    @torch.no_grad()
    def initialise(self, settings: CrosscoderSettings, generator: torch.Generator) -> None:
        """Set random directions of norm ``init_norm`` (docs/method.md 2).

        The settings say whether both models, and whether encoder and decoder, start with the same directions.
        """
        shape = self.encoder.shape
        self.encoder.copy_(_directions(shape, settings, generator))
        self.decoder.copy_(
            self.encoder if settings.transpose_init else _directions(shape, settings, generator)
        )

    def normalise(self, x: Tensor) -> Tensor:
        """Bring raw activations (batch, model, d_model), any dtype, to the crosscoder's scale, in float32."""
        scaled = (x.float() - self.mean) * self.scale[:, None]
        if self.target == DIFFERENCE:
            difference = scaled[:, CHAT] - scaled[:, BASE]
            return torch.stack([torch.zeros_like(difference), difference], dim=1)
        return scaled

    def know(self, encoder: Rounded | None, norms: Tensor) -> None:
        """Keep the encoder in bfloat16 and the decoder's ``norms`` (latents, model) for later use.

        They are dropped when an operation changes or moves a weight. A change through a parameter's ``data``
        can't be seen: call ``forget_known`` after it.
        """
        self._known = Known(encoder, norms, self._versions())

    def forget_known(self) -> None:
        """Drop what ``know`` kept. Call it after a change of weights that may not be seen."""
        self._known = None

    def _apply(self, *arguments: Any, **more: Any) -> "Crosscoder":
        self.forget_known()  # the weights move to another device or type
        return super()._apply(*arguments, **more)

    def _versions(self) -> tuple[int, int]:
        return self.encoder._version, self.decoder._version

    @property
    def known(self) -> Known | None:
        """What ``know`` kept, or None if it is no longer true."""
        return self._known if self._known is not None and self._known.versions == self._versions() else None

    def decoder_norms(self) -> Tensor:
        """Return the L2 norm of each decoder direction, (latents, model)."""
        known, pieces = self.known, self.pieces.get("decoder")
        if known is None or (torch.is_grad_enabled() and pieces is None):
            return self.decoder.norm(dim=2)
        if pieces is None or not torch.is_grad_enabled():
            return known.norms
        return norms_of(self.decoder.flatten(1), known.norms, pieces)

    def code_weights(self) -> Tensor:
        """Return the weights w of scaled activations v = f w: (latents,), or (latents, model) if decoupled.

        docs/method.md 4 defines them for each code normalisation.
        """
        norms = self.decoder_norms()
        match self.code_normalisation:
            case "crosscoder":
                return norms.sum(dim=1)
            case "sae":
                return norms.square().sum(dim=1).sqrt()
            case "mixed":
                return MIXED_SAE * norms.square().sum(dim=1).sqrt() + MIXED_CROSSCODER * norms.sum(dim=1)
            case "decoupled":
                return norms
            case _:
                return torch.ones_like(norms[:, 0])

    def preactivations(self, x: Tensor) -> Tensor:
        """Return the encoder's outputs before the ReLU, (batch, latents).

        ``x`` (batch, model, d_model) is on the crosscoder's scale. One product serves both models.
        """
        return torch.addmm(self.encoder_bias, x.flatten(1), self.encoder.flatten(1).T)

    def encoder_map(self) -> Encoder:
        """Return the encoder as the sparse operations take it, with both models' activations in one row."""
        known = None if self.known is None else self.known.encoder
        return Encoder(
            self.encoder.flatten(1), self.encoder_bias, self.precision, known, self.pieces.get("encoder")
        )

    def active(self, x: Tensor) -> Active:
        """Encode ``x`` (batch, model, d_model) at inference to active entries.

        ``x`` is on the crosscoder's scale. An entry is active if it is positive and its scaled activation
        exceeds a threshold.
        """
        thresholds = self.threshold.reshape((-1, 1) if self.has_thresholds else (1, -1))
        bounds = thresholds / self.code_weights().reshape(self.latents, -1)
        return above(self.encoder_map(), x.flatten(1), bounds.nan_to_num(nan=torch.inf).amin(dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """Encode ``x`` as ``active`` does, to dense codes (batch, latents)."""
        return self.active(x).dense()

    def values_per_model(self, active: Active) -> Tensor:
        """Return the values that each model's decoder uses at inference, (model, entries).

        Decoupled, a value is 0 for a model whose threshold it does not exceed.
        """
        if not self.decoupled:
            return active.values.expand(len(MODELS), -1)
        scaled = active.values * self.code_weights()[active.latents].T
        return torch.where(scaled > self.threshold[:, None], active.values, 0)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode ``codes`` (batch, latents) to (batch, model, d_model) on the crosscoder's scale."""
        if self.decoupled:
            return self.decode_active(Active.of(codes))
        return (codes @ self.decoder.flatten(1)).unflatten(1, (len(MODELS), self.d_model)) + self.decoder_bias

    def decode_active(self, active: Active, per_model: Tensor | None = None) -> Tensor:
        """Decode active entries to (batch, model, d_model) on the crosscoder's scale.

        Decoupled, each model's decoder takes its values from ``per_model`` (model, entries). If it is None,
        the values are those of inference.
        """
        if not self.decoupled:
            rows = weighted_rows(self.decoder.flatten(1), active, self.pieces.get("decoder"))
            return rows.unflatten(1, (len(MODELS), self.d_model)) + self.decoder_bias
        values = self.values_per_model(active) if per_model is None else per_model
        parts = [
            weighted_rows(self.decoder[:, m], active._replace(values=values[m])) for m in range(len(MODELS))
        ]
        return torch.stack(parts, dim=1) + self.decoder_bias

    def save(self, weights: str | Path, config: str | Path, training: dict) -> None:
        """Write the files ``weights`` (safetensors) and ``config`` (JSON).

        The JSON has the shape, the layer, the code normalisation, the precision, the partition and the limits
        if there are any, the target if it is not both models, and the ``training`` settings.
        """
        shape = {
            "d_model": self.d_model,
            "latents": self.latents,
            "layer": self.layer,
            "code_normalisation": self.code_normalisation,
            "precision": self.precision,
        }
        if self.partition:
            shape["partition"] = self.partition
        if self.target != BOTH:
            shape["target"] = self.target
        if limits := self.limits.saved():
            shape["limits"] = limits
        with atomic_path(weights) as temporary_weights, atomic_path(config) as temporary_config:
            tensors = self.state_dict()
            tensors.pop("log_threshold", None)  # it is for training alone
            save_weights(tensors, temporary_weights, record_mark())
            temporary_config.write_text(json.dumps({**shape, "training": training}, indent=2) + "\n")


# What ``Crosscoder.save`` writes into the JSON.
SAVED = (
    "d_model",
    "latents",
    "layer",
    "code_normalisation",
    "precision",
    "partition",
    "target",
    "limits",
    "training",
)


def _directions(shape: torch.Size, settings: CrosscoderSettings, generator: torch.Generator) -> Tensor:
    latents, models, d_model = shape
    first = torch.empty(latents, 1 if settings.same_init else models, d_model)
    for model in range(first.shape[1]):
        nn.init.kaiming_uniform_(first[:, model], generator=generator)
    return (first / first.norm(dim=2, keepdim=True) * settings.init_norm).expand(shape)


def load_crosscoder(
    weights: str | Path,
    config: str | Path,
    layer: int | None = None,
    d_model: int | None = None,
    mapped: bool = False,
) -> Crosscoder:
    """Read a crosscoder, ready for inference.

    If ``mapped``, its weights stay in the mapped file, in the file's type. It is then only good to be saved.

    Raises UserError if a file is damaged or of a newer Crossdiff, or if the crosscoder was trained at another
    layer or width than ``layer`` and ``d_model``. A check whose value is None is left out.
    """
    shape = read_json(config)
    if isinstance(shape, dict) and (unknown := sorted(shape.keys() - SAVED)):
        told = f"found {unknown[0]}, allowed: {', '.join(SAVED)}"
        raise UserError(f"{config}: {told}; another version of Crossdiff wrote it, so update this one")
    try:
        with torch.device("meta" if mapped else "cpu"):  # there weights have a shape, and take no memory
            crosscoder = Crosscoder(
                shape["d_model"],
                shape["latents"],
                shape["layer"],
                shape["code_normalisation"],
                shape["precision"],
            )
        crosscoder.partition = dict(shape.get("partition", {}))
        crosscoder.target = shape.get("target", BOTH)
        crosscoder.limits = Limits.of(shape.get("limits", {}))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{config}: not the configuration of a crosscoder ({first_line(error)})") from error
    for key in ("code_normalisation", "precision"):
        allowed = get_args(CrosscoderSettings.model_fields[key].annotation)
        if shape[key] not in allowed:
            raise UserError(f"{config}: {key}: found {shape[key]}, allowed: {', '.join(allowed)}")
    for key, wanted in (("layer", layer), ("d_model", d_model)):
        if wanted is not None and shape[key] != wanted:
            raise UserError(f"{weights}: trained at {key} {shape[key]}, the activations have {key} {wanted}")
    try:
        tensors = load_file(weights)
        if tensors.get("threshold", crosscoder.threshold).shape == (crosscoder.latents,):
            crosscoder.give_thresholds()
        crosscoder.load_state_dict(tensors, assign=mapped)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: not a whole crosscoder ({first_line(error)})") from error
    except RuntimeError as error:
        raise UserError(f"{weights}: does not fit {config} ({' '.join(str(error).split())})") from error
    return crosscoder.eval().requires_grad_(False)
