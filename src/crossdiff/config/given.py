"""Models that somebody else made: in folders, packages, GGUF files and adapters."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag, model_validator

from crossdiff.config.base import LocalPath, Name, Section, Text, about, exactly_one
from crossdiff.config.sources import HubModel, Package


class Gguf(Section):
    """One GGUF file, local or on the hub. It is read as bfloat16. A file in parts is refused."""

    file: Annotated[LocalPath, about("Path of the file; with `hub`, its name there.")]
    hub: HubModel | None = None


GIVEN = ("hub", "folder", "package", "gguf")  # sources of a model that somebody else made


class GivenModel(Section):
    """A model that somebody else made. Give exactly one of ``hub``, ``folder``, ``package`` and ``gguf``."""

    hub: HubModel | None = None
    folder: Annotated[
        LocalPath | None,
        about("A local Hugging Face folder: config.json, *.safetensors and tokenizer files."),
    ] = None
    package: Package | None = None
    gguf: Gguf | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "GivenModel":
        exactly_one(self, GIVEN)
        return self


# The tags of a union of a source and a name have blanks, so that no key can look like one.
A_SOURCE, A_NAME = "a source", "a name"


def _source_or_name(value: Any) -> str:
    return A_NAME if isinstance(value, str) else A_SOURCE


class Adapter(Section):
    """A LoRA adapter in PEFT's format, on a base model. Give exactly one of ``hub`` and ``folder``.

    The adapter is applied when the model is loaded, so no second copy of the base's weights is written.
    ``adapter_config.json`` names the base that the adapter was trained on. Another base is refused.
    """

    hub: HubModel | None = None
    folder: Annotated[
        LocalPath | None,
        about("A local folder with adapter_config.json and adapter_model.safetensors."),
    ] = None
    base: Annotated[
        Annotated[
            Annotated[GivenModel, Tag(A_SOURCE)] | Annotated[Name, Tag(A_NAME)],
            Discriminator(_source_or_name),
        ]
        | None,
        about("The model that is adapted: a source, or a name of `models`. In `pair`, left out: its base."),
    ] = None
    trained_on: Annotated[
        Text | None,
        about("The base that adapter_config.json names, if it is another name for the same weights."),
    ] = None
    merge: Annotated[
        bool,
        about("Write the sum of base and adapter as a plain model. It is rounded to the base's precision."),
    ] = False

    @model_validator(mode="after")
    def _one_place(self) -> "Adapter":
        exactly_one(self, ("hub", "folder"))
        return self
