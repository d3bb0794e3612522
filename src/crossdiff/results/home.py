"""Where a result lies, and whether it is still true: the records next to it say (docs/audit.md)."""

import os
from pathlib import Path
from typing import NamedTuple

from crossdiff.config import MODELS
from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Hashes
from crossdiff.provenance.json_cache import FOLDER, JsonCache
from crossdiff.provenance.records import (
    RESULTS,
    Record,
    RecordedFile,
    RecordError,
    is_result,
    read_record,
    record_path,
)
from crossdiff.provenance.trust import reason_to_doubt

# The inputs that rules/activations.smk calls ancient: their content does not count.
ORDER_ONLY = ("checked", "differs", "proved", "texts")
PLANTED = "planted"  # the folder of planted activations, below that of the layer


class PairNames(NamedTuple):
    """The names that the files of a pair's models bear below ``results/``."""

    base: str
    chat: str


def located(path: str | Path) -> Path:
    """An absolute path without ``..``. Follows a link that leads into a run. Raises UserError for no path."""
    try:
        # Not resolve(), which would also follow links inside the run.
        there = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
        if _results_above(there) is None and _results_above(there.resolve()) is not None:
            return there.resolve()
        there.exists()  # may raise: a name can be too long
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{str(path)[:80]!r}: not a path ({error})") from error
    return there


def _results_above(path: Path) -> Path | None:
    return next((parent for parent in path.parents if parent.name == RESULTS), None)


def root_of(path: Path, record: Record | None) -> Path | None:
    """The folder of the run that made ``path`` (see ``located``). None if the result was moved away."""
    results = _results_above(path)
    if results is None or record is None:
        return None
    inside = path.relative_to(results.parent).as_posix()
    return results.parent if record.output(inside) is not None else None


def record_of(path: Path, check: bool) -> Record | None:
    """The record of a file or folder that a job made. None where there is none to be asked for.

    With ``check``, raises UserError for a result below ``results/`` without a record, and where a result, or
    anything that it was made from, is not what its record says. Stamps of files are remembered in
    ``.snakemake/crossdiff`` of the run.
    """
    if not record_path(path).exists() and (_results_above(path) is None or not check):
        return None
    try:
        record = read_record(path)
        if check:
            root = root_of(path, record)
            _check_moved(path, record) if root is None else _check_chain(path, record, root)
    except RecordError as error:
        raise UserError(f"{error}; run the workflow again, or give check=False") from error
    return record


def _check_chain(path: Path, record: Record, root: Path) -> None:
    remembered = JsonCache(root / FOLDER / "hashes.json")
    hashes = Hashes(root, remembered)
    waiting, seen = [(path.relative_to(root).as_posix(), record)], set()
    while waiting:
        file, of_file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        if (reason := reason_to_doubt(file, of_file, hashes, ORDER_ONLY)) is not None:
            raise UserError(f"{path}: stale: {file} {reason}; run the workflow again, or give check=False")
        # What is gone says nothing of what was made from it.
        there = [e.path for e in of_file.inputs if is_result(e.path) and (root / e.path).exists()]
        waiting += [(entry, read_record(root / entry)) for entry in there if entry not in seen]
    remembered.save()


def _check_moved(path: Path, record: Record) -> None:
    """Of a file whose run is elsewhere only its own bytes can be compared."""
    now = Hashes(path.parent, {})
    if not any(entry.digest == now.now(path.name, entry) for entry in record.outputs):
        raise UserError(f"{path}: stale: not the file that its record describes; give check=False to load it")


def pair_names(record: Record | None) -> PairNames | None:
    """The models of a job that read both models' activations, or ran both models.

    None for planted ones, and without a record.
    """
    # results/activations/{model}/layer{layer}/{tokenizer}/... or results/models/{model}
    read = (*_inputs(record, "activations"), *_inputs(record, "models"))
    found = {entry.name: entry.path.split("/")[2] for entry in read}
    if not found.keys() >= set(MODELS) or found["base"] == found["chat"]:
        return None
    return PairNames(found["base"], found["chat"])


def is_planted(record: Record | None) -> bool:
    """Whether a job read planted activations, which no model gives."""
    # results/{pair}/layer{layer}/planted/...
    return record is not None and any(entry.path.split("/")[3:4] == [PLANTED] for entry in record.inputs)


def tokenizer_folder(path: Path, record: Record | None) -> Path:
    """The folder of the tokenizer whose tokens a job read that made ``path``.

    Raises UserError where it is not known, or gone.
    """
    root = root_of(path, record)
    # results/tokens/{tokenizer}/... or results/activations/{model}/layer{layer}/{tokenizer}/...
    names = [entry.path.split("/")[2] for entry in _inputs(record, "tokens")]
    names += [entry.path.split("/")[4] for entry in _inputs(record, "activations")]
    if root is None or not names:
        raise UserError(f"{path}: it was moved away from its run's results/, which hold its tokenizer")
    folder = root / RESULTS / "tokenizers" / names[0]
    if not folder.exists():
        raise UserError(f"{folder}: not there, though {path} was made with it; run the workflow again")
    return folder


def _inputs(record: Record | None, folder: str) -> list[RecordedFile]:
    """The recorded inputs below ``results/{folder}/``."""
    inputs = record.inputs if record else []
    return [entry for entry in inputs if entry.path.startswith(f"{RESULTS}/{folder}/")]
