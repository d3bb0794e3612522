"""Crosscoders that others trained, made into a training's files, so that every later stage reads them."""

import tempfile
from pathlib import Path
from typing import Any

from crossdiff.config import ImportedCrosscoder
from crossdiff.config.imported import IMPORTED, PICKLED, WEIGHTS, crosscoder_files
from crossdiff.crosscoders.model import Crosscoder, load_crosscoder
from crossdiff.crosscoders.published import read_published
from crossdiff.errors import UserError
from crossdiff.models.hub import fetch
from crossdiff.provenance.storage import read_json


def import_crosscoder(entry: ImportedCrosscoder, d_model: int, key: str, weights: str, config: str) -> None:
    """Write the files ``weights`` and ``config`` of a crosscoder that others trained, for a pair's width.

    ``key`` is that of its entry. Raises UserError for a folder or repository without a crosscoder, for files
    with pickled code, for damaged ones, and for another layer, width or number of latents.
    """
    given = entry.given
    if given.hub is None:
        _write(Path(str(given.folder)), entry, d_model, key, weights, config)
        return
    with tempfile.TemporaryDirectory(dir=Path(weights).parent) as scratch:
        found = fetch(given.hub, Path(scratch), (*WEIGHTS, "config.json"))
        if not any((found / name).exists() for name in WEIGHTS):
            found = fetch(given.hub, Path(scratch), (PICKLED, "config.json"))
        try:
            _write(found, entry, d_model, key, weights, config)
        except UserError as error:
            raise UserError(str(error).replace(str(found), f"hub model {given.hub}")) from None


def _write(
    folder: Path, entry: ImportedCrosscoder, d_model: int, key: str, weights: str, config: str
) -> None:
    """Write the files of the crosscoder in a folder. Its weights are read, checked and written in pieces."""
    given = entry.given
    crosscoder, training = _read(folder, given.layer)
    wanted = {"latents": given.latents, "d_model": d_model}
    for name, number in wanted.items():
        if (has := getattr(crosscoder, name)) != number:
            whose = f"{key}.latents says" if name == "latents" else "the pair's models have"
            raise UserError(f"{key}: found a crosscoder with {name} {has}, allowed: {number}, which {whose}")
    known = {"loss": given.loss} if given.loss else {}
    # A local path says nothing on another machine. The record has it.
    source = given.model_dump(mode="json", exclude_none=True) | ({"folder": "local"} if given.folder else {})
    crosscoder.save(weights, config, {**training, **known, IMPORTED: source})


def _read(folder: Path, layer: int) -> tuple[Crosscoder, dict[str, Any]]:
    """The crosscoder in a folder, in the format that it has, and what is known of its training.

    Its weights stay in the mapped file, because they are only saved.
    """
    weights, *config = crosscoder_files(folder)
    if weights.name != WEIGHTS[0]:
        found = read_published(weights if weights.suffix == ".pt" else folder, layer, mapped=True)
        return found.crosscoder, {} if found.k is None else {"k": found.k}
    if not config:
        raise UserError(f"{folder}: lacks config.json, which stands next to {weights.name}")
    crosscoder = load_crosscoder(weights, config[0], layer, mapped=True)
    training = read_json(config[0]).get("training")
    return crosscoder, training if isinstance(training, dict) else {}
