"""Where a result lies, and whether it is still true: the records next to it say (docs/audit.md)."""

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

ORDER_ONLY = ("checked",)  # the inputs that rules/activations.smk calls ancient: their content does not count


class PairNames(NamedTuple):
    """The names that the files of a pair's models bear below ``results/``."""

    base: str
    chat: str


def root_of(path: Path) -> Path | None:
    """The folder that holds the innermost ``results/`` above a path. None for a result that was moved."""
    return next((parent.parent for parent in path.absolute().parents if parent.name == RESULTS), None)


def record_of(path: Path, check: bool) -> Record | None:
    """The record of a file or folder that a job made. None for one outside ``results/`` that has none.

    With ``check``, raises UserError where the result, or anything that it was made from, is not what its
    record says. Raises UserError for a record that is missing or damaged in any case."""
    path = path.absolute()
    root = root_of(path)
    if root is None and not record_path(path).exists():
        return None
    record = _read(path)
    if check:
        _check_moved(path, record) if root is None else _check_chain(path, record, root)
    return record


def _read(path: Path) -> Record:
    try:
        return read_record(path)
    except RecordError as error:
        raise UserError(f"{error}; run snakemake again") from error


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
            because = f"{file} {reason}"
            raise UserError(f"{path}: stale: {because}; run snakemake again, or give check=False")
        # What is gone says nothing of what was made from it.
        there = [
            entry.path for entry in of_file.inputs if is_result(entry.path) and (root / entry.path).exists()
        ]
        waiting += [(entry, _read(root / entry)) for entry in there if entry not in seen]
    remembered.save()


def _check_moved(path: Path, record: Record) -> None:
    """Of a file whose run is elsewhere only its own bytes can be compared."""
    now = Hashes(path.parent, {})
    if not any(entry.digest == now.now(path.name, entry) for entry in record.outputs):
        raise UserError(
            f"{path}: stale: it is not the file that its record describes; give check=False to load it"
        )


def pair_names(record: Record | None) -> PairNames | None:
    """The models of a job that read both models' activations. None for planted ones, and without a record."""
    # results/activations/{model}/layer{layer}/{tokenizer}/...
    found = {entry.name: entry.path.split("/")[2] for entry in _inputs(record, "activations")}
    return PairNames(found["base"], found["chat"]) if found.keys() >= set(MODELS) else None


def tokenizer_folder(path: Path, record: Record | None) -> Path:
    """The folder of the tokenizer whose tokens a job read that made ``path``.

    Raises UserError where it is not known, or gone.
    """
    root = root_of(path)
    # results/tokens/{tokenizer}/... or results/activations/{model}/layer{layer}/{tokenizer}/...
    names = [entry.path.split("/")[2] for entry in _inputs(record, "tokens")]
    names += [entry.path.split("/")[4] for entry in _inputs(record, "activations")]
    if root is None or not names:
        raise UserError(
            f"{path}: found no run's results/ above it, which hold its tokenizer; load it from there"
        )
    folder = root / RESULTS / "tokenizers" / names[0]
    if not folder.exists():
        raise UserError(f"{folder}: not there, though {path} was made with it; run snakemake again")
    return folder


def _inputs(record: Record | None, folder: str) -> list[RecordedFile]:
    """The recorded inputs below ``results/{folder}/``."""
    return (
        [entry for entry in record.inputs if entry.path.startswith(f"{RESULTS}/{folder}/")] if record else []
    )
