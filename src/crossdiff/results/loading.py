"""Finding a crosscoder: in a folder of results, in any folder or file, or on the Hugging Face hub."""

import re
from pathlib import Path

from crossdiff.crosscoders import published
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import read_json
from crossdiff.results.crosscoder import WEIGHTS, LoadedCrosscoder
from crossdiff.results.home import located, record_of

CONFIG = "config.json"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHARED = (WEIGHTS, CONFIG, "betas.parquet", "*.record.json")  # what a hub folder of ours holds for ``load``
NAMED = 4  # crosscoders that an error names


def load(source: str | Path, check: bool = True, layer: int | None = None) -> LoadedCrosscoder:
    """A trained crosscoder, on the GPU if there is one.

    ``source`` is one of these. Only a name that is no path here is looked for on the hub.

    - a training's folder, ``results/{pair}/layer{layer}/{crosscoder}/seed{seed}``, or a folder above a single
      one
    - the ``weights.safetensors`` in such a folder
    - ``owner/name`` of a hub repository that holds ``weights.safetensors`` and ``config.json``
    - a folder or hub repository in the format of the paper's authors, or their ``ae_*.pt``
      (docs/exchange.md); ``layer`` says which block's output it is for, because the format does not

    Raises UserError where there is no crosscoder, where it is damaged, where it is stale, and where it was
    trained at another layer than ``layer``. ``check=False`` loads what is stale too, its tables included."""
    path = located(source)
    if not path.exists() and HUB_NAME.fullmatch(str(source)):
        path = _downloaded(str(source), layer)
    if published.is_published(path):
        return _of_others(path, layer)
    if path.exists():
        folder = _folder(path)
    else:
        raise UserError(
            f"{source}: not there; allowed: a training's folder, its {WEIGHTS}, or a hub name owner/name"
        )
    record = record_of(folder / WEIGHTS, check)
    record_of(folder / CONFIG, check)
    module = load_crosscoder(folder / WEIGHTS, folder / CONFIG, layer).to(device())
    return LoadedCrosscoder(module, folder, record, check)


def _of_others(path: Path, layer: int | None) -> LoadedCrosscoder:
    module = published.read_published(path, _named(layer, path)).crosscoder.to(device())
    return LoadedCrosscoder(module, path if path.is_dir() else path.parent, None, check=True)


def _named(layer: int | None, source: str | Path) -> int:
    if layer is None:
        raise UserError(f"{source}: the authors' format does not name the layer; give load(..., layer=N)")
    return layer


def _folder(path: Path) -> Path:
    if path.is_file():
        if path.name != WEIGHTS:
            raise UserError(f"{path}: allowed: {WEIGHTS} of a crosscoder, with its {CONFIG} next to it")
        path = path.parent
    found = [path] if (path / WEIGHTS).exists() else sorted({file.parent for file in path.rglob(WEIGHTS)})
    if len(found) > 1:
        names = ", ".join(map(str, found[:NAMED])) + (", ..." if len(found) > NAMED else "")
        raise UserError(f"{path}: found {len(found)} crosscoders, name one: {names}")
    if not found or not (found[0] / CONFIG).exists():
        raise UserError(f"{path}: found no crosscoder, allowed: a folder with {WEIGHTS} and {CONFIG}")
    return found[0]


def _downloaded(name: str, layer: int | None) -> Path:
    """The folder of a hub repository that holds a crosscoder. Weights are asked for last."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG]))
        config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
        if published.is_published_config(config):
            _named(layer, name)
            return Path(snapshot_download(name, allow_patterns=[CONFIG, published.WEIGHTS]))
        if not (isinstance(config, dict) and "latents" in config):
            raise UserError(
                f"{name}: found no crosscoder; allowed: Crossdiff's, or one of the paper's authors"
            )
        return Path(snapshot_download(name, allow_patterns=list(SHARED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: no such folder here, and the hub does not give it ({first_line(error)})"
        ) from error
