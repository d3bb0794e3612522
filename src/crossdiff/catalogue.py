"""The catalogue: names that people give to latents, in a YAML file that they edit (docs/read-the-report.md).

A number means nothing in another training, so every entry says which weights it was given to. Torch-free: the Snakefile imports it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml
from pydantic import Field, ValidationError

from crossdiff.config.base import NonNegativeInt, Settings
from crossdiff.config.problems import describe
from crossdiff.errors import UserError, first_line

DIGITS = 12  # of a weights' digest


class Entry(Settings):
    """A latent worth naming."""

    crosscoder: str
    seed: NonNegativeInt = 0
    weights: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGITS}}}$", description="digest of the training's weights; the latent browser shows it")]
    latent: NonNegativeInt
    name: Annotated[str, Field(min_length=1, max_length=60)]
    note: str = ""


class Catalogue(Settings):
    """The file: a list of entries under ``latents``."""

    latents: list[Entry]


class Named(NamedTuple):
    """The entries of one training."""

    current: dict[int, Entry]  # by latent
    stale: list[Entry]  # given to the latents of other weights


def read_catalogue(path: str | Path, trainings: Iterable[tuple[str, int]]) -> list[Entry]:
    """The entries of a file about ``trainings``, (crosscoder, seed) of this run.

    Raises UserError, one line per problem, when the file can't be read, when an entry is not as it should be, names a training that this
    run does not have, or names a latent that has a name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        entries = Catalogue.model_validate(values).latents
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({first_line(error)})") from error
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {describe(problem, Catalogue)}" for problem in error.errors())) from error
    known, seen = list(trainings), set()
    for number, entry in enumerate(entries):
        if (entry.crosscoder, entry.seed) not in known:
            allowed = ", ".join(f"{crosscoder} seed {seed}" for crosscoder, seed in known)
            raise UserError(f"{path}: latents.{number}: found {entry.crosscoder} seed {entry.seed}, allowed: {allowed}")
        key = (entry.crosscoder, entry.seed, entry.weights, entry.latent)
        if key in seen:
            raise UserError(f"{path}: latents.{number}: latent {entry.latent} of {entry.crosscoder} seed {entry.seed} has a name already")
        seen.add(key)
    return entries


def weights_digest(path: str | Path) -> str:
    """Short digest of the tensors in a safetensors file; its metadata, which name the record of the job, do not count."""
    with Path(path).open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def names(path: str | Path | None, digests: Mapping[tuple[str, int], str], latents: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], Named]:
    """What a catalogue (or none) says of every training, from the digest of its weights and its number of latents.

    Raises UserError as ``read_catalogue`` does, and when an entry names a latent that its training does not have.
    """
    found = {training: Named({}, []) for training in digests}
    for number, entry in enumerate(read_catalogue(path, found) if path else []):
        training = (entry.crosscoder, entry.seed)
        if entry.weights != digests[training]:
            found[training].stale.append(entry)
        elif entry.latent >= latents[training]:
            allowed = f"0 to {latents[training] - 1}"
            raise UserError(f"{path}: latents.{number}.latent: found {entry.latent}, allowed in {entry.crosscoder}: {allowed}")
        else:
            found[training].current[entry.latent] = entry
    return found
