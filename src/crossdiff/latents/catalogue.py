"""The catalogue: names that people give to latents, in a YAML file that they edit (docs/read-the-report.md).

A latent's number means nothing in another training. So every entry says for which weights it was written.
This module needs no torch, because the Snakefile imports it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from crossdiff.config.base import NonNegativeInt, Section
from crossdiff.config.problems import describe
from crossdiff.config.yaml_files import read_yaml
from crossdiff.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TrainingName = tuple[str, int]  # crosscoder and seed
COLUMNS = ("crosscoder", "seed", "latent", "name", "note", "weights", "stale")
DIGITS = 12  # hexadecimal digits of a digest of weights


class NamedLatent(Section):
    """One entry: a name for one latent of one training."""

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
    """The whole file: a list of entries under ``latents``."""

    latents: list[NamedLatent]


def read_catalogue(path: str | Path, trainings: Iterable[TrainingName]) -> list[dict[str, Any]]:
    """Read the entries of a catalogue, as dictionaries with the fields of NamedLatent.

    ``trainings`` are the (crosscoder, seed) of this run. Raises UserError, one line per problem, if:

    - the file can't be read
    - an entry has a wrong form
    - an entry names a training that this run does not have
    - two entries name the same latent
    """
    try:
        entries = Catalogue.model_validate(read_yaml(path)).model_dump()["latents"]
    except ValidationError as error:
        lines = (f"{path}: {describe(problem, Catalogue)}" for problem in error.errors())
        raise UserError("\n".join(lines)) from error
    known, seen = list(trainings), set()
    for number, entry in enumerate(entries):
        crosscoder, seed, latent = entry["crosscoder"], entry["seed"], entry["latent"]
        if (crosscoder, seed) not in known:
            allowed = ", ".join(f"{name} seed {number}" for name, number in known)
            raise UserError(f"{path}: latents.{number}: found {crosscoder} seed {seed}, allowed: {allowed}")
        key = (crosscoder, seed, latent, entry["weights"])
        if key in seen:
            named = f"latent {latent} of {crosscoder} seed {seed}"
            raise UserError(
                f"{path}: latents.{number}: {named} has a name already; remove one of the entries"
            )
        seen.add(key)
    return entries


def training_name(crosscoder: str, seed: int) -> str:
    """The name of a training on pages and in files of theirs, such as ``batchtopk.seed0``."""
    return f"{crosscoder}.seed{seed}"


def weights_digest(path: str | Path) -> str:
    """Digest of the tensors in a safetensors file: the first DIGITS hexadecimal digits of their SHA-256.

    The file's header is left out, because its metadata name the record of the job that wrote it.
    """
    with Path(path).open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def check(
    path: str | Path, digests: Mapping[TrainingName, str], latents: Mapping[TrainingName, int]
) -> list[dict[str, Any]]:
    """Check a catalogue against the weights of this run. Gives one row per entry, with COLUMNS.

    ``digests`` holds the digest of each training's weights, ``latents`` its number of latents. An entry is
    stale if it was written for other weights than those of this run. Raises UserError as ``read_catalogue``
    does, and if an entry that is not stale names a latent that the training does not have.
    """
    rows = []
    for number, entry in enumerate(read_catalogue(path, digests)):
        training = (entry["crosscoder"], entry["seed"])
        stale = entry["weights"] != digests[training]
        if not stale and entry["latent"] >= latents[training]:
            allowed = f"allowed in {entry['crosscoder']}: 0 to {latents[training] - 1}"
            raise UserError(f"{path}: latents.{number}.latent: found {entry['latent']}, {allowed}")
        rows.append(entry | {"stale": stale})
    return rows


def read_names(path: str | Path | None) -> "pd.DataFrame":
    """Read the table of checked names, with COLUMNS. It has no rows if ``path`` is None (no catalogue)."""
    import pandas as pd

    if path is None:
        return pd.DataFrame(columns=list(COLUMNS)).astype({"stale": bool})
    text = {"crosscoder": str, "name": str, "note": str, "weights": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False)


def names_of(path: str | Path | None, crosscoders: Iterable[str], seed: int) -> dict[str, dict[int, str]]:
    """The names of one seed: crosscoder -> latent -> name.

    ``path`` is the table of checked names. If it is None (no catalogue), there are no names.
    """
    rows = read_names(path)
    return {crosscoder: current(rows, crosscoder, seed) for crosscoder in crosscoders}


def current(rows: "pd.DataFrame", crosscoder: str, seed: int) -> dict[int, str]:
    """The names of one training: latent -> name. Stale ones are left out.

    ``rows`` is the table of checked names.
    """
    found = rows[(rows.crosscoder == crosscoder) & (rows.seed == seed) & ~rows.stale]
    return dict(zip(found.latent.tolist(), found["name"].tolist(), strict=True))
