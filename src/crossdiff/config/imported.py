"""Crosscoders that others trained. They are read, not trained (docs/exchange.md)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from crossdiff.config.base import (
    LocalPath,
    Name,
    NonNegativeInt,
    PositiveInt,
    Section,
    about,
    exactly_one,
)
from crossdiff.config.sources import HubModel
from crossdiff.errors import UserError

if TYPE_CHECKING:
    from crossdiff.config.whole import Config

IMPORT = "import"  # the key by which an entry of ``crosscoders`` is one of these
IMPORTED = "imported"  # in the ``training`` of a crosscoder's config.json: where it comes from
WEIGHTS = ("weights.safetensors", "model.safetensors")  # Crossdiff's, and those of the paper's authors
PICKLED = "ae_*.pt"  # the authors' checkpoints, of which only tensors are read


def crosscoder_files(folder: Path) -> list[Path]:
    """The files of the crosscoder in a folder: its weights, and its configuration if there is one.

    Raises UserError if the folder holds no crosscoder, or several.
    """
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()] or sorted(folder.glob(PICKLED))
    if len(weights) != 1:
        found = ", ".join(path.name for path in weights) or "none"
        raise UserError(
            f"{folder}: found {found} of the files that hold a crosscoder, "
            f"allowed: one of {', '.join(WEIGHTS)}, {PICKLED}"
        )
    config = folder / "config.json"
    return [*weights, *([config] if config.is_file() else [])]


class Import(Section):
    """Where a crosscoder comes from that others trained. Its format is Crossdiff's or that of the authors.

    Give ``folder`` or ``hub``, not both. A config with it has one pair at one layer, and no planted concepts.
    """

    folder: Annotated[
        LocalPath | None,
        about(
            "Folder with `weights.safetensors` or `model.safetensors` and its `config.json`, or with one "
            "`ae_*.pt`."
        ),
    ] = None
    hub: Annotated[HubModel | None, about("Repository that holds these files.")] = None
    layer: Annotated[
        NonNegativeInt,
        about("0-based block whose output it was trained on. It must be the pair's layer.", "layer"),
    ]
    latents: Annotated[
        PositiveInt, about("Number of its latents. Files with another number are refused.", "count")
    ]
    loss: Annotated[
        Name | None,
        about("Loss that it was trained with, such as `batchtopk`. The paper's values for it are shown."),
    ] = None

    def local_files(self, key: str) -> list[Path]:
        """The files of ``folder``, the weights first. None if there is no such folder.

        Raises UserError, with the ``key``, if it holds no crosscoder, or several.
        """
        if self.folder is None or not Path(self.folder).exists():
            return []
        try:
            return crosscoder_files(Path(self.folder))
        except UserError as error:
            raise UserError(f"{key}: {error}") from None

    @model_validator(mode="after")
    def _one_source(self) -> "Import":
        exactly_one(self, ("folder", "hub"))
        return self


class ImportedCrosscoder(Section):
    """A crosscoder that others trained. It is read once, and counts as the first seed's."""

    given: Annotated[Import, Field(alias=IMPORT)]

    @property
    def loss(self) -> str:
        """The loss that it was trained with, or ``imported`` if that is not known."""
        return self.given.loss or IMPORTED

    @property
    def active_latents(self) -> None:
        """Active latents per token: the settings do not say."""
        return None

    def n_latents(self, d_model: int) -> int:
        """Number of latents, whatever the width ``d_model`` of the residual stream."""
        return self.given.latents


def check_imports(config: "Config") -> None:
    """Raise ValueError if a config imports a crosscoder that does not belong to its pair and layer."""
    for name, entry in config.imported.items():
        key = f"crosscoders.{name}.{IMPORT}"
        if config.planted is not None:
            raise ValueError(f"{key}: found with planted concepts, allowed: crosscoders that are trained")
        if len(config.comparisons) > 1:
            raise ValueError(
                f"{key}: a crosscoder belongs to one pair at one layer, and this config has several; "
                "give it a config of its own"
            )
        if entry.given.layer != (layer := config.comparisons[0].layer):
            raise ValueError(f"{key}.layer: found {entry.given.layer}, allowed: {layer}, the pair's layer")
