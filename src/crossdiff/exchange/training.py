"""A finished training as exports take it: its crosscoder, tables, tokenizer, and the texts that it read."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerFast

from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.recorded_settings import RecordedSettings, recorded_settings
from crossdiff.provenance.records import Record, embedded_id, read_record, record_path
from crossdiff.provenance.storage import atomic_path, read_json
from crossdiff.results.crosscoder import WEIGHTS, LoadedCrosscoder
from crossdiff.results.home import record_of, root_of, tokenizer_folder
from crossdiff.results.loading import CONFIG, load
from crossdiff.texts.shards import Shard, read_shard

ACTIVE = "active.train.parquet"


class Training:
    """A training below ``results/`` whose record, and those of all that it was made from, agree with it.

    Raises UserError for a folder that holds no crosscoder, for one without a record, and for a stale one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.loaded: LoadedCrosscoder = load(folder)
        self.folder = self.loaded.folder
        if not record_path(self.folder / WEIGHTS).exists():
            raise UserError(f"{self.folder}: has no record of what it was made from; allowed: a run's result")
        self.record: Record = read_record(self.folder / WEIGHTS)
        root = root_of(self.folder / WEIGHTS, self.record)
        if root is None:
            raise UserError(f"{self.folder}: was moved away from its run; allowed: a folder in its results/")
        self.root: Path = root

    @property
    def crosscoder(self) -> Crosscoder:
        """The weights, as torch's module."""
        return self.loaded.module

    @property
    def mark(self) -> dict[str, str]:
        """What a copy carries so that ``crossdiff audit`` finds the record of its weights."""
        found = embedded_id(self.folder / WEIGHTS)
        return {"crossdiff-record": f"crossdiff-record:{found}"} if found else {}

    @property
    def name(self) -> str:
        """Pair, layer, crosscoder and seed, such as ``pair/layer12/batchtopk/seed0``."""
        return "/".join(self.folder.parts[-4:])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the training."""
        return dict(read_json(self.folder / CONFIG)["training"])

    @cached_property
    def recorded(self) -> RecordedSettings:
        """The settings of the training and of all that it was made from, by full key."""
        path = (self.folder / "betas.parquet").relative_to(self.root)
        return recorded_settings([path.as_posix()], self.root)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the texts. Raises UserError where it is gone."""
        return load_chat_tokenizer(tokenizer_folder(self.folder / WEIGHTS, self.record))

    def table(
        self, name: str, columns: list[str] | None = None, filters: list[tuple[str, str, Any]] | None = None
    ) -> pd.DataFrame:
        """A table of the training's folder, of which ``columns`` and the rows that pass ``filters``.

        Raises UserError where it is not there, or stale.
        """
        path = self.folder / name
        if not path.exists():
            raise UserError(f"{path}: not there; run the workflow first")
        record_of(path, check=True)
        return pd.read_parquet(path, columns=columns, filters=filters)

    def optional(self, name: str) -> pd.DataFrame | None:
        """The same, or None for a table that this run does not have."""
        return self.table(name) if (self.folder / name).exists() else None

    def active(self) -> tuple[Path, list[Shard]]:
        """The file of active entries of the training text, and its token shards in their order.

        Raises UserError where one of them is gone, or stale.
        """
        path = self.folder / ACTIVE
        if not path.exists():
            raise UserError(f"{path}: not there; run the workflow first")
        record_of(path, check=True)
        inputs = [entry.path for entry in read_record(path).inputs if entry.name == "tokens"]
        return path, [read_shard(self.root / shard) for shard in inputs]


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder that appears once all is in it. Raises UserError if it is there and not empty."""
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place}: is there and not empty; allowed: a new folder")
    with atomic_path(place) as temporary:
        temporary.mkdir()
        yield temporary
