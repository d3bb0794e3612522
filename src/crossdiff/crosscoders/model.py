"""The crosscoder: one dictionary of latents for both models, with a decoder direction per model (docs/method.md 1 to 4).

Shapes: an activation x is (batch, model, d_model) with model 0 = base and 1 = chat; a code f is (batch, latents).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crossdiff.config import MODELS, CrosscoderSettings
from crossdiff.crosscoders.gradients import Pieces, norms_of
from crossdiff.crosscoders.selection import Encoder, Rounded, above
from crossdiff.crosscoders.sparse import Active, weighted_rows
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path, read_json, record_mark

MIXED_SAE, MIXED_CROSSCODER = 1.0, 0.1  # docs/method.md 4, defaults of the mixed code normalisation


class Known(NamedTuple):
    """What an optimiser has worked out in its pass over the weights, and the versions of these for which it holds."""

    encoder: Rounded | None  # where products are of bfloat16
    norms: Tensor  # (latents, model) of the decoder
    versions: tuple[int, int]


class Crosscoder(nn.Module):
    """Encoder, decoder, and the scaling of the activations that they were trained on.

    ``threshold`` is what a scaled activation must exceed to count at inference (BatchTopK); 0 keeps every positive one. With decoupled code
    normalisation each model has a threshold of its own, and a latent may count for one model and not for the other.
    """

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
        # One row per latent: what an active latent touches lies together in memory.
        self.encoder = nn.Parameter(torch.zeros(latents, len(MODELS), d_model))
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder = nn.Parameter(torch.zeros(latents, len(MODELS), d_model))
        self.decoder_bias = nn.Parameter(torch.zeros(len(MODELS), d_model))
        self.register_buffer("threshold", torch.zeros(len(MODELS)) if self.decoupled else torch.zeros(()))
        self.register_buffer("mean", torch.zeros(len(MODELS), d_model))
        self.register_buffer("scale", torch.ones(len(MODELS)))
        # For an optimiser that gathers gradients itself (``optimiser``): where they are noted, and what it leaves.
        self.pieces: dict[str, Pieces] = {}
        self._known: Known | None = None

    @property
    def decoupled(self) -> bool:
        return self.code_normalisation == "decoupled"

    @property
    def d_model(self) -> int:
        return self.decoder.shape[2]

    @property
    def latents(self) -> int:
        return self.decoder.shape[0]

    @torch.no_grad()
    def initialise(self, settings: CrosscoderSettings, generator: torch.Generator) -> None:
        """Random directions of norm ``init_norm``: the same for both models, and for encoder and decoder, as set (docs/method.md 2)."""
        self.encoder.copy_(_directions(self.encoder.shape, settings, generator))
        self.decoder.copy_(
            self.encoder if settings.transpose_init else _directions(self.encoder.shape, settings, generator)
        )

    def normalise(self, x: Tensor) -> Tensor:
        """Raw activations (batch, model, d_model), any dtype, to the scale of the crosscoder, float32."""
        return (x.float() - self.mean) * self.scale[:, None]

    def know(self, encoder: Rounded | None, norms: Tensor) -> None:
        """Take over the encoder in bfloat16 and the decoder's ``norms`` (latents, model), until an operation changes or moves a weight;
        one on a parameter's ``data`` is not seen."""
        self._known = Known(encoder, norms, self._versions())

    def forget_known(self) -> None:
        """Weights were changed in a way that may not be seen."""
        self._known = None

    def _apply(self, *arguments: Any, **more: Any) -> "Crosscoder":
        self.forget_known()  # moved to another device
        return super()._apply(*arguments, **more)

    def _versions(self) -> tuple[int, int]:
        return self.encoder._version, self.decoder._version

    @property
    def known(self) -> Known | None:
        return self._known if self._known is not None and self._known.versions == self._versions() else None

    def decoder_norms(self) -> Tensor:
        """(latents, model): the L2 norm of each decoder direction."""
        known, pieces = self.known, self.pieces.get("decoder")
        if known is None or (torch.is_grad_enabled() and pieces is None):
            return self.decoder.norm(dim=2)
        return (
            known.norms
            if pieces is None or not torch.is_grad_enabled()
            else norms_of(self.decoder.flatten(1), known.norms, pieces)
        )

    def code_weights(self) -> Tensor:
        """The weight that makes of an activation f a scaled one, v (docs/method.md 4): (latents,), or (latents, model) if decoupled."""
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
        """x (batch, model, d_model) on the crosscoder's scale to (batch, latents), before the ReLU. One product for both models."""
        return torch.addmm(self.encoder_bias, x.flatten(1), self.encoder.flatten(1).T)

    def encoder_map(self) -> Encoder:
        """The encoder as sparse operations take it: both models' activations side by side."""
        known = None if self.known is None else self.known.encoder
        return Encoder(
            self.encoder.flatten(1), self.encoder_bias, self.precision, known, self.pieces.get("encoder")
        )

    def active(self, x: Tensor) -> Active:
        """Codes f of x (batch, model, d_model) at inference: ReLU, and only where the scaled activation exceeds a threshold."""
        bounds = self.threshold.reshape(-1) / self.code_weights().reshape(self.latents, -1)
        return above(self.encoder_map(), x.flatten(1), bounds.nan_to_num(nan=torch.inf).amin(dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """The same as a dense (batch, latents)."""
        return self.active(x).dense()

    def values_per_model(self, active: Active) -> Tensor:
        """(model, entries): the part of each active value that each model's decoder uses at inference."""
        if not self.decoupled:
            return active.values.expand(len(MODELS), -1)
        scaled = active.values * self.code_weights()[active.latents].T
        return torch.where(scaled > self.threshold[:, None], active.values, 0)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (batch, latents) to reconstructions (batch, model, d_model)."""
        if self.decoupled:
            return self.decode_active(Active.of(codes))
        return (codes @ self.decoder.flatten(1)).unflatten(1, (len(MODELS), self.d_model)) + self.decoder_bias

    def decode_active(self, active: Active, per_model: Tensor | None = None) -> Tensor:
        """The same from active entries; decoupled, from values ``per_model`` (model, entries), by default those of inference."""
        if not self.decoupled:
            rows = weighted_rows(self.decoder.flatten(1), active, self.pieces.get("decoder"))
            return rows.unflatten(1, (len(MODELS), self.d_model)) + self.decoder_bias
        values = self.values_per_model(active) if per_model is None else per_model
        parts = [
            weighted_rows(self.decoder[:, m], active._replace(values=values[m])) for m in range(len(MODELS))
        ]
        return torch.stack(parts, dim=1) + self.decoder_bias

    def save(self, weights: str | Path, config: str | Path, training: dict) -> None:
        """Write ``weights`` (safetensors) and ``config`` (JSON: shape, layer, code normalisation and the ``training`` settings)."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        shape = {
            "d_model": self.d_model,
            "latents": self.latents,
            "layer": self.layer,
            "code_normalisation": self.code_normalisation,
            "precision": self.precision,
        }
        with atomic_path(weights) as temporary_weights, atomic_path(config) as temporary_config:
            save_file(tensors, temporary_weights, metadata=record_mark())
            temporary_config.write_text(json.dumps({**shape, "training": training}, indent=2) + "\n")


def _directions(shape: torch.Size, settings: CrosscoderSettings, generator: torch.Generator) -> Tensor:
    latents, models, d_model = shape
    first = torch.empty(latents, 1 if settings.same_init else models, d_model)
    for model in range(first.shape[1]):
        nn.init.kaiming_uniform_(first[:, model], generator=generator)
    return (first / first.norm(dim=2, keepdim=True) * settings.init_norm).expand(shape)


def load_crosscoder(
    weights: str | Path, config: str | Path, layer: int | None = None, d_model: int | None = None
) -> Crosscoder:
    """Read a crosscoder. Raises UserError when it is damaged or does not fit activations of ``layer`` and ``d_model``."""
    shape = read_json(config)
    try:
        crosscoder = Crosscoder(
            shape["d_model"],
            shape["latents"],
            shape["layer"],
            shape["code_normalisation"],
            shape["precision"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{config}: not the configuration of a crosscoder ({error} is missing)") from error
    for key, wanted in (("layer", layer), ("d_model", d_model)):
        if wanted is not None and shape[key] != wanted:
            raise UserError(f"{weights}: trained at {key} {shape[key]}, the activations have {key} {wanted}")
    try:
        crosscoder.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: not a whole crosscoder ({first_line(error)})") from error
    except RuntimeError as error:
        raise UserError(f"{weights}: does not fit {config} ({' '.join(str(error).split())})") from error
    return crosscoder.eval().requires_grad_(False)
