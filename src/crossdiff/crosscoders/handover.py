"""How the job of one training leaves the results of another training to that training's own job.

They wait in a hidden folder next to their final names, with the id of the record that they will have. The own
job computes its id, and takes only results that have the same one. It needs no torch for this, so this module
imports none.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.config import CrosscoderSettings
from crossdiff.errors import UserError
from crossdiff.provenance.records import RecordedFile
from crossdiff.provenance.storage import read_json, write_json

FOLDER = ".left"
WHOSE = "whose.json"  # written last: the id of the record, and why the training failed or null


class Outputs(NamedTuple):
    """Paths of a training's results."""

    weights: str
    config: str
    log: str


class Order(NamedTuple):
    """A training that is to be made."""

    name: str  # for the log
    settings: CrosscoderSettings
    seed: int
    identity: str  # the id of its record
    inputs: Mapping[str, Any]  # as ``PairedActivations.of`` takes them
    outputs: Outputs
    read: tuple[RecordedFile, ...] = ()  # its inputs as they were hashed, if no ``recording`` checks them

    @property
    def state(self) -> Path:
        """The path of its checkpoint."""
        return Path(self.outputs.weights).with_name(".checkpoint.safetensors")


def waiting(order: Order) -> Outputs:
    """Return the paths at which a training's results wait for its own job."""
    folder = _folder(order)
    return Outputs(*(str(folder / Path(path).name) for path in order.outputs))


def leave(order: Order, error: UserError | None = None) -> None:
    """Say that the own job may take what waits: all results, or the ``error`` of a failed training."""
    told = {"identity": order.identity, "error": None if error is None else str(error)}
    write_json(_folder(order) / WHOSE, told)


def is_left(order: Order) -> bool:
    """Return whether results, or an error, wait for a job with this order's identity."""
    try:
        return read_json(_folder(order) / WHOSE)["identity"] == order.identity
    except UserError:
        return False


def take(order: Order) -> bool:
    """Move results that wait for this order to their final names. Returns False if none wait.

    Raises UserError with the line of the training, if it failed. The next attempt then trains.
    """
    if not is_left(order):
        return False
    error, left = read_json(_folder(order) / WHOSE)["error"], waiting(order)
    whole = error is None and all(Path(path).is_file() for path in left)
    if whole:
        for path, final in zip(left, order.outputs, strict=True):
            Path(path).replace(final)
    clear(order)
    if error is not None:
        raise UserError(error)
    return whole


def clear(order: Order) -> None:
    """Delete all that waits for this order's job."""
    shutil.rmtree(_folder(order), ignore_errors=True)


def _folder(order: Order) -> Path:
    return Path(order.outputs.weights).with_name(FOLDER)
