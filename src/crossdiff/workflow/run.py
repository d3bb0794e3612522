"""What the Snakefile needs of a configuration: the settings of each rule, shards, and the files of a run. Torch-free."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossdiff.config import Config, TextSource, load
from crossdiff.errors import UserError
from crossdiff.models.files import model_files

SPLITS = ("train", "validation")


class Run:
    """A checked configuration, as the rules see it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.config: Config = load(values)
        self._values = self.config.model_dump(mode="json", by_alias=True)

    def settings(self, *keys: str) -> Callable[[Any], dict[str, Any]]:
        """A params function: the settings below ``keys`` as one sorted, flat, plain dict with their full names.

        Keys may hold wildcards. One dict: Snakemake compares separate params as a set without names, so swapped
        values would go unseen.
        """

        def of(wildcards: Any) -> dict[str, Any]:
            flat: dict[str, Any] = {}
            for key in keys:
                name = key.format(**dict(wildcards.items()))
                flat |= _flatten(name, _lookup(self._values, name))
            return dict(sorted(flat.items()))

        return of

    @staticmethod
    def text_keys(dataset: str) -> list[str]:
        """The keys that decide a data set's texts: all but its token budgets, so that a larger budget keeps the old shards."""
        return [f"datasets.{dataset}.{key}" for key in TextSource.model_fields]

    def model_files(self, model: str) -> list[str]:
        """Local files that a model's source reads. Raises UserError when its folder holds no model."""
        source = self.config.pair.source(model)
        if source.folder is not None:
            if not Path(source.folder, "config.json").is_file():
                raise UserError(f"pair.{model}.folder: found {source.folder}, allowed: a Hugging Face folder with config.json")
            return [str(path) for path in model_files(Path(source.folder))]
        return [source.random.chat_template] if source.random is not None else []

    def n_shards(self, dataset: str, split: str) -> int:
        return -(-self.config.datasets[dataset].budget(split) // self.config.tokens.shard)

    def shards(self, dataset: str, split: str) -> list[str]:
        return [f"{number:04d}" for number in range(self.n_shards(dataset, split))]

    def shard_tokens(self, dataset: str, split: str, shard: str) -> int:
        """Tokens of one shard: all are full but the last."""
        size = self.config.tokens.shard
        return min(size, self.config.datasets[dataset].budget(split) - int(shard) * size)


def section(settings: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The settings below ``path`` as a nested dict: the inverse of the flat form that a rule hands to its script."""
    prefix = ".".join(path) + "."
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(prefix):
            *parents, leaf = key.removeprefix(prefix).split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value
    return nested


def _lookup(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: leaf for part, inner in value.items() for key, leaf in _flatten(f"{name}.{part}", inner).items()}
    return {name: value}
