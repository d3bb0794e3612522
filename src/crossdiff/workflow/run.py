"""This module gives the Snakefile what it needs of a config: each rule's settings, shards, files of a run.

Torch-free.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from crossdiff.config import MODELS, Config, TextSource, load
from crossdiff.config.declared import flatten
from crossdiff.config.models import SOURCES
from crossdiff.errors import UserError
from crossdiff.models.files import model_files
from crossdiff.models.weight_files import ALLOWED, check_folder

SKEW = 60  # seconds by which clocks of a network's machines may differ
SPLITS = ("train", "validation")
# Folders that hold results of all runs.
SHARED = ("results/packages", "results/models", "results/tokenizers")


class Run:
    """A checked configuration, as the rules see it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.config: Config = load(values)
        self._values = self.config.model_dump(mode="json", by_alias=True)

    def settings(self, *keys: str) -> Callable[[Any], dict[str, Any]]:
        """Return a params function: the settings below ``keys`` as one sorted, flat, plain dict of full keys.

        Keys may hold wildcards. It is one dict because Snakemake compares separate params as a set without
        names: swapped values would go unseen.
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
    def text_keys(dataset: str, *unread: str) -> list[str]:
        """The keys that decide a data set's texts, without those that a rule does not read.

        Token budgets are left out, so that a larger budget keeps old shards.
        """
        return [f"datasets.{dataset}.{key}" for key in TextSource.model_fields if key not in unread]

    @staticmethod
    def source_keys(role: str) -> list[str]:
        """The keys that decide what a model is: its source, not its name."""
        return [f"pair.{role}.{kind}" for kind in SOURCES]

    def model_name(self, role: str) -> str:
        """The name of the pair's base or chat model. Its folder and its activations have this name."""
        return self.config.pair.model_name(role)

    def role(self, model: str) -> str:
        """The role of a model in the pair: base or chat."""
        return next(role for role in MODELS if self.model_name(role) == model)

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer that renders chats. It is the folder's name too."""
        return self.config.tokenizer_name

    def model_files(self, role: str) -> list[str]:
        """Local files that a model's source reads. Raises UserError if its folder holds no model."""
        source = self.config.pair.source(role)
        if source.folder is not None:
            if not Path(source.folder, "config.json").is_file():
                raise UserError(f"pair.{role}.folder: found {source.folder}, allowed: {ALLOWED}")
            return [str(path) for path in model_files(Path(source.folder))]
        return [source.random.chat_template] if source.random is not None else []

    def proofs(self, role: str) -> list[str]:
        """What a model is tried on before the harvest: the parts of interventions.proof that this run
        needs.
        """
        chat, config = role == "chat", self.config
        generated = config.causal is not None and config.causal.answers == "generated"
        needed = {
            "harvest": True,
            "head": chat,
            "patching": chat and config.causal is not None,
            "steering": chat and config.steering is not None,
            "perplexity": not chat and config.steering is not None,
            "generation": config.behaviour is not None or (chat and generated),
        }
        return [part for part, is_needed in needed.items() if is_needed]

    @property
    def fetched(self) -> list[str]:
        """Roles whose model comes from a source.

        A chat model that is fine-tuned or planted is made from the base.
        """
        chat = self.config.pair.chat
        return ["base"] if chat.finetune or chat.planted else list(MODELS)

    def check_models(self) -> None:
        """Check the local folders that models come from. Raises UserError if one holds no whole model."""
        for role in self.fetched:
            if (folder := self.config.pair.source(role).folder) is not None:
                try:
                    check_folder(Path(folder))
                except UserError as error:
                    raise UserError(f"pair.{role}.folder: {error}") from None

    def text_files(self, dataset: str) -> list[str]:
        """The local files that a data set's texts are read from; folders and globs are looked up.

        Raises UserError for a folder or glob that does not say which files to read.
        """
        return self.config.datasets[dataset].local_files(f"datasets.{dataset}")

    def n_shards(self, dataset: str, split: str) -> int:
        """How many shards a split has."""
        return -(-self.config.datasets[dataset].budget(split) // self.config.tokens.shard)

    def shards(self, dataset: str, split: str) -> list[str]:
        """The numbers of a split's shards, as their files have them: 0000, 0001 and so on."""
        return [f"{number:04d}" for number in range(self.n_shards(dataset, split))]

    def shard_tokens(self, dataset: str, split: str, shard: str) -> int:
        """The number of tokens in one shard. All shards are full except the last."""
        size = self.config.tokens.shard
        return min(size, self.config.datasets[dataset].budget(split) - int(shard) * size)


def check_times(config: Config, root: Path = Path()) -> None:
    """Raise UserError for sources and results that are newer than now, which a wrong clock makes.

    Snakemake would refuse each job that reads one after it has run.
    """
    made = [path for folder in result_folders(config) for path in (root / folder).rglob("*")]
    now = time.time() + SKEW
    late = [
        path
        for path in [*(Path(path) for _, path in config.paths()), *made]
        if path.exists() and path.stat().st_mtime > now
    ]
    if late:
        when = datetime.fromtimestamp(late[0].stat().st_mtime).isoformat(" ", "seconds")
        more = f" and {len(late) - 1} more" if late[1:] else ""
        command = f"touch {shlex.quote(str(late[0]))}" if not more else "find . -newermt now -exec touch {} +"
        raise UserError(
            f"{late[0]}{more}: changed in the future ({when}), by a clock that is wrong; "
            f"correct it, then: {command}"
        )


def check_layout(config: Config, root: Path = Path()) -> None:
    """Raise UserError for results of version 0.1, which had other paths (CHANGELOG.md)."""
    folder = root / "results" / config.pair.name
    of_old = ("models", "tokenizer", "tokens", "activations", "tables", "figures")
    if old := [name for name in of_old if (folder / name).exists()]:
        found = f"found {old[0]}/, which has the path layout before 0.2 (CHANGELOG.md)"
        raise UserError(
            f"{folder.relative_to(root)}: {found}; "
            "nothing reads it any more: delete the folder, or give the pair another name"
        )


def result_folders(config: Config) -> list[str]:
    """Folders that hold a run's results: those of its pair, its tokens and its models' activations.

    See also SHARED.
    """
    activations = [f"results/activations/{config.pair.model_name(role)}" for role in MODELS]
    return [f"results/{config.pair.name}", f"results/tokens/{config.tokenizer_name}", *activations]
