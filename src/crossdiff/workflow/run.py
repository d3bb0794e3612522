"""This module gives the Snakefile what it needs of a config: each rule's settings, shards, files of a run.

Torch-free.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from crossdiff.config import MODELS, Config, GivenModel, TextSource, load
from crossdiff.config.declared import flatten
from crossdiff.config.models import SOURCES
from crossdiff.errors import UserError
from crossdiff.models.adapter_folder import check_adapter
from crossdiff.models.files import adapter_files, model_files
from crossdiff.models.weight_files import ALLOWED, check_folder, check_gguf

SKEW = 60  # seconds by which clocks of a network's machines may differ
SPLITS = ("train", "validation")
# Folders that hold results of all runs.
SHARED = ("results/packages", "results/models", "results/tokenizers")


class Run:
    """A checked configuration, as the rules see it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.config: Config = load(values)
        self._values = self.config.model_dump(mode="json", by_alias=True)
        self._text_files: dict[str, list[str]] = {}

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

    def source_keys(self, role: str) -> list[str]:
        """The keys that decide what a model is: its source, not its name.

        For an adapter on the pair's base they include the base's, whose name the adapter is checked against.
        """
        roles = ["base", role] if self.config.pair.source(role).needs_pairs_base else [role]
        return [f"pair.{name}.{kind}" for name in roles for kind in SOURCES]

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

    def replacements(self, model: str) -> list[list[int]]:
        """[token id, id that the model reads in its place]: none for a model that is not the pair's base."""
        pairs = self.config.tokens.base_replacements.items() if self.role(model) == "base" else ()
        return [list(pair) for pair in sorted(pairs)]

    def model_files(self, role: str) -> list[str]:
        """Local files that a model's source reads. Raises UserError if its folder holds no model."""
        source = self.config.pair.source(role)
        template = [source.random.chat_template] if source.random is not None else []
        if source.adapter is None:
            return template + _given_files(source, f"pair.{role}")
        files = _given_files(source.adapter.base, f"pair.{role}.adapter.base") if source.adapter.base else []
        folder = source.adapter.folder
        return files + ([str(path) for path in adapter_files(Path(folder))] if folder else [])

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
        """Check the local files that models come from. Raises UserError if they are no whole model."""
        for role in self.fetched:
            source, key = self.config.pair.source(role), f"pair.{role}"
            if (adapter := source.adapter) is None:
                _check_given(source, key)
                continue
            if adapter.base is not None:
                _check_given(adapter.base, f"{key}.adapter.base")
            if adapter.folder is not None:
                check_adapter(
                    adapter.folder, adapter, adapter.base or self.config.pair.base, f"{key}.adapter"
                )

    def text_files(self, dataset: str) -> list[str]:
        """The local files that a data set's texts are read from.

        Folders and globs are looked up once, because the job of every shard asks. Raises UserError for a
        folder or glob that does not say which files to read.
        """
        if dataset not in self._text_files:
            self._text_files[dataset] = self.config.datasets[dataset].local_files(f"datasets.{dataset}")
        return self._text_files[dataset]

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


def _given_files(source: GivenModel, key: str) -> list[str]:
    """Local files of a folder or GGUF file. Raises UserError, with the ``key``, if a folder is no model's."""
    if source.gguf is not None and source.gguf.hub is None:
        return [source.gguf.file]
    if source.folder is None:
        return []
    if not Path(source.folder, "config.json").is_file():
        raise UserError(f"{key}.folder: found {source.folder}, allowed: {ALLOWED}")
    return [str(path) for path in model_files(Path(source.folder))]


def _check_given(source: GivenModel, key: str) -> None:
    """Check what lies here of a model. Raises UserError, with the ``key``, for what is no whole model."""
    if source.gguf is not None and source.gguf.hub is None:
        check_gguf(Path(source.gguf.file), f"{key}.gguf.file: {source.gguf.file}")
    if source.folder is not None:
        try:
            check_folder(Path(source.folder))
        except UserError as error:
            raise UserError(f"{key}.folder: {error}") from None


def check_times(config: Config, root: Path = Path()) -> None:
    """Raise UserError for sources and results that are newer than now, which a wrong clock makes.

    Snakemake would refuse each job that reads one after it has run. Each file's time is asked for once. A
    running job may take a file away meanwhile.
    """
    made = (
        Path(folder, name)
        for results in result_folders(config)
        for folder, folders, files in os.walk(root / results)
        for name in folders + files
    )
    limit = time.time() + SKEW
    late = []
    for path in (*(Path(path) for _, path in config.paths()), *made):
        with contextlib.suppress(OSError):
            if (changed := path.stat().st_mtime) > limit:
                late.append((path, changed))
    if late:
        path, changed = late[0]
        when = datetime.fromtimestamp(changed).isoformat(" ", "seconds")
        more = f" and {len(late) - 1} more" if late[1:] else ""
        command = f"touch {shlex.quote(str(path))}" if not more else "find . -newermt now -exec touch {} +"
        raise UserError(
            f"{path}{more}: changed in the future ({when}), by a clock that is wrong; "
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
