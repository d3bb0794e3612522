"""What the Snakefile needs of a configuration: the settings of each rule, shards, and the files of a run. Torch-free."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossdiff.config import MODELS, Config, TextSource, load
from crossdiff.config.declared import flatten
from crossdiff.config.models import SOURCES
from crossdiff.errors import UserError
from crossdiff.models.files import model_files

SPLITS = ("train", "validation")
SHARED = ("results/packages", "results/models", "results/tokenizers")  # folders that hold results of all runs


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
            named = [key.format(**dict(wildcards.items())) for key in keys]
            return dict(
                sorted(
                    (full, value) for key in named for full, value in flatten(key, self._value(key)).items()
                )
            )

        return of

    def _value(self, key: str) -> Any:
        value = self._values
        for part in key.split("."):
            value = value[part]
        return value

    @staticmethod
    def text_keys(dataset: str) -> list[str]:
        """The keys that decide a data set's texts: all but its token budgets, so that a larger budget keeps the old shards."""
        return [f"datasets.{dataset}.{key}" for key in TextSource.model_fields]

    @staticmethod
    def source_keys(role: str) -> list[str]:
        """The keys that decide what a model is: where it comes from, not its name."""
        return [f"pair.{role}.{kind}" for kind in SOURCES]

    def model_name(self, role: str) -> str:
        """The name of the pair's base or chat model, which its folder and its activations bear."""
        return self.config.pair.model_name(role)

    def role(self, model: str) -> str:
        """The part that a model plays in the pair: base or chat."""
        return next(role for role in MODELS if self.model_name(role) == model)

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer that renders chats, which its folder and the tokens bear."""
        return self.config.tokenizer_name

    def model_files(self, role: str) -> list[str]:
        """Local files that a model's source reads. Raises UserError when its folder holds no model."""
        source = self.config.pair.source(role)
        if source.folder is not None:
            if not Path(source.folder, "config.json").is_file():
                raise UserError(
                    f"pair.{role}.folder: found {source.folder}, allowed: a Hugging Face folder with config.json"
                )
            return [str(path) for path in model_files(Path(source.folder))]
        return [source.random.chat_template] if source.random is not None else []

    @property
    def fetched(self) -> list[str]:
        """Roles whose model comes from elsewhere; the other is made from the base."""
        chat = self.config.pair.chat
        return ["base"] if chat.finetune or chat.planted else list(MODELS)

    def check_models(self) -> None:
        """Raises UserError when the folder of a model that comes from elsewhere holds none."""
        for role in self.fetched:
            self.model_files(role)

    def text_files(self, dataset: str) -> list[str]:
        """The local files that a data set's texts are read from; folders and globs are looked up.

        Raises UserError for a folder or glob that does not say which files to read.
        """
        return self.config.datasets[dataset].local_files(f"datasets.{dataset}")

    def check_texts(self) -> None:
        """Raises UserError for a data set whose local files can't be told."""
        for dataset in self.config.datasets:
            self.text_files(dataset)

    def n_shards(self, dataset: str, split: str) -> int:
        return -(-self.config.datasets[dataset].budget(split) // self.config.tokens.shard)

    def shards(self, dataset: str, split: str) -> list[str]:
        return [f"{number:04d}" for number in range(self.n_shards(dataset, split))]

    def shard_tokens(self, dataset: str, split: str, shard: str) -> int:
        """Tokens of one shard: all are full but the last."""
        size = self.config.tokens.shard
        return min(size, self.config.datasets[dataset].budget(split) - int(shard) * size)


def check_layout(config: Config, root: Path = Path()) -> None:
    """Raises UserError for results of version 0.1, whose paths are not those of today (CHANGELOG.md)."""
    folder = root / "results" / config.pair.name
    old = [
        name
        for name in ("models", "tokenizer", "tokens", "activations", "tables", "figures")
        if (folder / name).exists()
    ]
    if old:
        found = f"found {old[0]}/, which is of the path layout before 0.2 (CHANGELOG.md)"
        raise UserError(
            f"{folder.relative_to(root)}: {found}; nothing reads it any more: delete the folder, or give the pair another name"
        )


def result_folders(config: Config) -> list[str]:
    """Where the results of a run lie: first those of its pair, then what bears the names of its models. For the rest see SHARED."""
    activations = [f"results/activations/{config.pair.model_name(role)}" for role in MODELS]
    return [f"results/{config.pair.name}", f"results/tokens/{config.tokenizer_name}", *activations]
