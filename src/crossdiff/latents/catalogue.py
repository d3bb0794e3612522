"""The catalogue: names that people give to latents, in a YAML file that they edit (docs/read-the-report.md).

A number means nothing in another training, so every entry says which weights it was given to. Torch-free: the Snakefile imports it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, ValidationError

from crossdiff.config.base import NonNegativeInt, Section
from crossdiff.config.problems import describe
from crossdiff.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

TrainingName = tuple[str, int]  # crosscoder and seed
COLUMNS = ("crosscoder", "seed", "latent", "name", "note", "weights", "stale")
DIGITS = 12  # of a weights' digest


class NamedLatent(Section):
    """A latent worth naming."""

    crosscoder: str
    seed: NonNegativeInt = 0
    weights: Annotated[
        str,
        Field(
            pattern=rf"^[0-9a-f]{{{DIGITS}}}$",
            description="digest of the training's weights; the latent browser shows it",
        ),
    ]
    latent: NonNegativeInt
    name: Annotated[str, Field(min_length=1, max_length=60)]
    note: str = ""


class Catalogue(Section):
    """The file: a list of entries under ``latents``."""

    latents: list[NamedLatent]


def read_catalogue(path: str | Path, trainings: Iterable[TrainingName]) -> list[dict[str, Any]]:
    """The entries of a file, as dictionaries with the fields of NamedLatent, about ``trainings``, (crosscoder, seed) of this run.

    Raises UserError, one line per problem, when the file can't be read, when an entry is not as it should be, names a training that this
    run does not have, or names a latent that has a name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        entries = Catalogue.model_validate(values).model_dump()["latents"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({first_line(error)})") from error
    except ValidationError as error:
        raise UserError(
            "\n".join(f"{path}: {describe(problem, Catalogue)}" for problem in error.errors())
        ) from error
    known, seen = list(trainings), set()
    for number, entry in enumerate(entries):
        crosscoder, seed, latent = entry["crosscoder"], entry["seed"], entry["latent"]
        if (crosscoder, seed) not in known:
            allowed = ", ".join(f"{name} seed {number}" for name, number in known)
            raise UserError(f"{path}: latents.{number}: found {crosscoder} seed {seed}, allowed: {allowed}")
        key = (crosscoder, seed, latent, entry["weights"])
        if key in seen:
            raise UserError(
                f"{path}: latents.{number}: latent {latent} of {crosscoder} seed {seed} has a name already"
            )
        seen.add(key)
    return entries


def weights_digest(path: str | Path) -> str:
    """Short digest of the tensors in a safetensors file; its metadata, which name the record of the job, do not count."""
    with Path(path).open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def check(
    path: str | Path, digests: Mapping[TrainingName, str], latents: Mapping[TrainingName, int]
) -> list[dict[str, Any]]:
    """One row per entry: crosscoder, seed, latent, name, note, weights, and stale: it was given to other weights than those of this run.

    From the digest of each training's weights and its number of latents. Raises UserError as ``read_catalogue`` does, and when an entry
    about these weights names a latent that they do not have.
    """
    rows = []
    for number, entry in enumerate(read_catalogue(path, digests)):
        training = (entry["crosscoder"], entry["seed"])
        stale = entry["weights"] != digests[training]
        if not stale and entry["latent"] >= latents[training]:
            allowed = f"0 to {latents[training] - 1}"
            raise UserError(
                f"{path}: latents.{number}.latent: found {entry['latent']}, allowed in {entry['crosscoder']}: {allowed}"
            )
        rows.append(entry | {"stale": stale})
    return rows


def read_names(path: str | Path | None) -> "pd.DataFrame":
    """The table of checked names, COLUMNS; without rows where there is no catalogue."""
    import pandas as pd

    if path is None:
        return pd.DataFrame(columns=list(COLUMNS)).astype({"stale": bool})
    return pd.read_csv(
        path, dtype={"crosscoder": str, "name": str, "note": str, "weights": str}, keep_default_na=False
    )


def names_of(path: str | Path | None, crosscoders: Iterable[str], seed: int) -> dict[str, dict[int, str]]:
    """Crosscoder -> latent -> name, of one seed, from the table of checked names; empty where there is no catalogue."""
    rows = read_names(path)
    return {crosscoder: current(rows, crosscoder, seed) for crosscoder in crosscoders}


def current(rows: "pd.DataFrame", crosscoder: str, seed: int) -> dict[int, str]:
    """Latent -> name, of one training, from the table of checked names; stale ones are left out."""
    found = rows[(rows.crosscoder == crosscoder) & (rows.seed == seed) & ~rows.stale]
    return dict(zip(found.latent.tolist(), found["name"].tolist(), strict=True))
