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

from crossdiff.config import MODELS, Adapter, Config, Finetune, GivenModel, TextSource, load
from crossdiff.config.declared import flatten
from crossdiff.config.local_files import local_files
from crossdiff.config.models import SOURCES
from crossdiff.errors import UserError
from crossdiff.models.adapter_folder import check_adapter
from crossdiff.models.files import adapter_files, model_files
from crossdiff.models.quantised import check_bits
from crossdiff.models.weight_files import ALLOWED, check_folder, check_gguf, read_config
from crossdiff.workflow.tokenizer_names import ChatTokenizer, chat_tokenizers

SKEW = 60  # seconds by which clocks of a network's machines may differ
SPLITS = ("train", "validation")
SAMPLE = "sample"  # the split that is drawn from "train" if ``activations.store`` is none
# Folders that hold results of all runs.
SHARED = ("results/packages", "results/models", "results/tokenizers")


class Run:
    """A checked configuration, as the rules see it.

    ``of`` gives the run as the job of one pair at one layer sees it.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.config: Config = load(values)
        self.tokenizers = chat_tokenizers(self.config)  # chat model -> tokenizer
        self._text_files: dict[str, list[str]] = {}
        self._seen: dict[tuple[str | None, ...], RunOfPair] = {}

    @property
    def comparisons(self) -> list["RunOfPair"]:
        """The run of every pair at every layer."""
        return [self._of({"pair": pair.name, "layer": str(pair.layer)}) for pair in self.config.comparisons]

    def of(self, wildcards: Any) -> "RunOfPair":
        """The run as the job with these wildcards sees it (``Config.seen_by``)."""
        return self._of(dict(wildcards.items()))

    def _of(self, wildcards: Mapping[str, str]) -> "RunOfPair":
        key = tuple(wildcards.get(name) for name in ("pair", "layer", "model"))
        if key not in self._seen:
            self._seen[key] = RunOfPair(self.config.seen_by(wildcards), self.tokenizers)
        return self._seen[key]

    def settings(self, *keys: str) -> Callable[[Any], dict[str, Any]]:
        """Return a params function: the settings below ``keys`` as one sorted, flat, plain dict of full keys.

        Keys may hold wildcards. It is one dict because Snakemake compares separate params as a set without
        names: swapped values would go unseen.
        """

        def of(wildcards: Any) -> dict[str, Any]:
            named = [key.format(**dict(wildcards.items())) for key in keys]
            seen = self.of(wildcards)
            return dict(
                sorted(
                    (full, value) for key in named for full, value in flatten(key, seen.value(key)).items()
                )
            )

        return of

    @staticmethod
    def text_keys(dataset: str, *unread: str) -> list[str]:
        """The keys that decide a data set's texts, without those that a rule does not read.

        Token budgets are left out, so that a larger budget keeps old shards.
        """
        return [f"datasets.{dataset}.{key}" for key in TextSource.model_fields if key not in unread]

    def source_keys(self, model: str) -> list[str]:
        """The keys that decide what a model is: its source, not its name.

        For an adapter on another model they include that model's, whose name the adapter is checked against.
        """
        origin = self.config.models[model].origin
        models = [model] if origin is None else [origin, model]
        return [f"models.{name}.{key}" for name in models for key in (*SOURCES, "bits")]

    def origin(self, model: str) -> str | list[str]:
        """The folder of the model that this one is made from, or an empty list, as an input of a rule."""
        origin = self.config.models[model].origin
        return [] if origin is None else f"results/models/{origin}"

    @property
    def made(self) -> list[str]:
        """Every model that a pair names, and every model that one of them is made from."""
        found = {pair.model_name(role) for pair in self.config.comparisons for role in MODELS}
        for model in sorted(found):
            above = self.config.models.get(model)
            while above is not None and above.origin is not None:
                found.add(above.origin)
                above = self.config.models[above.origin]
        return sorted(found & self.config.models.keys())

    @property
    def fetched(self) -> list[str]:
        """Models that come from a source. The others are fine-tuned here."""
        return [model for model in self.made if self.config.models[model].finetune is None]

    @property
    def finetuned(self) -> list[str]:
        """Models that are fine-tuned here."""
        return [model for model in self.made if self.config.models[model].finetune is not None]

    def finetune(self, model: str) -> Finetune:
        """How a model is fine-tuned. Raises ValueError for another model."""
        finetune = self.config.models[model].finetune
        if finetune is None:
            raise ValueError(f"{model} is not fine-tuned here")
        return finetune

    def read_by(self, model: str) -> list[str]:
        """The data sets that a model is fine-tuned on."""
        return [name for name in self.finetune(model).data if name in self.config.datasets]

    def is_taught(self, model: str) -> bool:
        """Whether a model is fine-tuned on behaviours of ``organisms.texts``."""
        return len(self.read_by(model)) < len(self.finetune(model).data)

    def tokenizer(self, name: str) -> ChatTokenizer:
        """The tokenizer of this name."""
        return next(tokenizer for tokenizer in self.tokenizers.values() if tokenizer.name == name)

    def replacements(self, model: str) -> list[list[int]]:
        """[token id, id that the model reads in its place]: none for a model that is no pair's base."""
        bases = {pair.model_name("base") for pair in self.config.comparisons}
        pairs = self.config.tokens.base_replacements.items() if model in bases else ()
        return [list(pair) for pair in sorted(pairs)]

    def model_files(self, model: str) -> list[str]:
        """Local files that a model's source reads. Raises UserError if its folder holds no model."""
        source, key = self.config.models[model], self.config.key_of(model)
        template = [source.random.chat_template] if source.random is not None else []
        if source.adapter is None:
            return template + _given_files(source, key)
        base, folder = source.adapter.base, source.adapter.folder
        files = _given_files(base, f"{key}.adapter.base") if isinstance(base, GivenModel) else []
        return files + ([str(path) for path in adapter_files(Path(folder))] if folder else [])

    def proofs(self, model: str, layer: str, tokenizer: str) -> list[str]:
        """What a model is tried on before the harvest: the parts of interventions.proof that this run
        needs.
        """
        config = self.config
        roles = {
            role
            for seen in self.comparisons
            for role in MODELS
            if seen.pair.model_name(role) == model
            and str(seen.pair.layer) == layer
            and seen.tokenizer_name == tokenizer
        }
        base, chat = "base" in roles, "chat" in roles
        generated = config.causal is not None and config.causal.answers == "generated"
        needed = {
            "harvest": True,
            "head": chat,
            "patching": chat and config.causal is not None,
            "steering": chat and config.steering is not None,
            "perplexity": base and config.steering is not None,
            "generation": config.behaviour is not None or (chat and generated),
        }
        return [part for part, is_needed in needed.items() if is_needed]

    def check_models(self) -> None:
        """Check the local files that models come from. Raises UserError if they are no whole model.

        Also raises it for ``bits`` without the library that rounds to them, or of weights that are rounded.
        """
        for model in self.fetched:
            source, key = self.config.models[model], self.config.key_of(model)
            if source.bits is not None:
                given: GivenModel = base_of(self.config, source.adapter) if source.adapter else source
                folder = Path(given.folder or "")
                here = given.folder is not None and (folder / "config.json").is_file()
                check_bits(source.bits, f"{key}.bits", read_config(folder) if here else None)
            if (adapter := source.adapter) is None:
                _check_given(source, key)
                continue
            if isinstance(adapter.base, GivenModel):
                _check_given(adapter.base, f"{key}.adapter.base")
            if adapter.folder is not None:
                check_adapter(adapter.folder, adapter, base_of(self.config, adapter), f"{key}.adapter")

    def text_files(self, dataset: str) -> list[str]:
        """The local files that a data set's texts are read from.

        What is no data set is a behaviour of ``organisms.texts``. Folders and globs are looked up once,
        because the job of every shard asks. Raises UserError for a folder or glob that does not say which
        files to read.
        """
        if dataset not in self._text_files and dataset not in self.config.datasets:
            return [self.config.organisms.texts] if self.config.organisms else []
        if dataset not in self._text_files:
            self._text_files[dataset] = self.config.datasets[dataset].local_files(f"datasets.{dataset}")
        return self._text_files[dataset]

    def n_shards(self, dataset: str, split: str) -> int:
        """How many shards a split has. A sample is one shard."""
        if split == SAMPLE:
            return 1
        return -(-self.config.datasets[dataset].budget(split) // self.config.tokens.shard)

    def shards(self, dataset: str, split: str) -> list[str]:
        """The numbers of a split's shards, as their files have them: 0000, 0001 and so on."""
        return [f"{number:04d}" for number in range(self.n_shards(dataset, split))]

    def shard_tokens(self, dataset: str, split: str, shard: str) -> int:
        """The number of tokens in one shard. All shards are full except the last."""
        size = self.config.tokens.shard
        return min(size, self.config.datasets[dataset].budget(split) - int(shard) * size)


class RunOfPair:
    """A run as the job of one pair at one layer sees it."""

    def __init__(self, config: Config, tokenizers: Mapping[str, ChatTokenizer]) -> None:
        self.config, self.pair = config, config.pair
        self._values = config.model_dump(mode="json", by_alias=True)
        chat = self.pair.model_name("base" if config.planted else "chat")
        self.tokenizer_name = tokenizers[chat].name

    def value(self, key: str) -> Any:
        """The plain value of a key, or of a section."""
        value = self._values
        for part in key.split("."):
            value = value[part]
        return value

    @property
    def tokens(self) -> str:
        """The folder of token shards."""
        return f"results/tokens/{self.tokenizer_name}"

    def activations(self, role: str) -> str:
        """The folder of one model's activations at the layer, on these tokens."""
        model = self.pair.model_name(role)
        return f"results/activations/{model}/layer{self.pair.layer}/{self.tokenizer_name}"


def base_of(config: Config, adapter: Adapter) -> GivenModel:
    """The source of the model that is adapted."""
    return adapter.base if isinstance(adapter.base, GivenModel) else config.models[str(adapter.base)]


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
    for path in (*(Path(path) for _, path in local_files(config)), *made):
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
    of_old = ("models", "tokenizer", "tokens", "activations", "tables", "figures")
    for name in pair_names(config):
        folder = root / "results" / name
        if old := [part for part in of_old if (folder / part).exists()]:
            found = f"found {old[0]}/, which has the path layout before 0.2 (CHANGELOG.md)"
            raise UserError(
                f"{folder.relative_to(root)}: {found}; "
                "nothing reads it any more: delete the folder, or give the pair another name"
            )


def pair_names(config: Config) -> list[str]:
    """The names of all pairs."""
    return list(dict.fromkeys(pair.name for pair in config.comparisons))


def own_folders(config: Config) -> list[str]:
    """Folders that hold results of this run alone: those of its pairs, and that of the page over them."""
    overview = [config.overview] if len(config.comparisons) > 1 else []
    return [f"results/{name}" for name in (*pair_names(config), *overview)]


def result_folders(config: Config) -> list[str]:
    """Folders that hold a run's results: those of its pairs, its tokens and its models' activations.

    See also SHARED.
    """
    models = dict.fromkeys(pair.model_name(role) for pair in config.comparisons for role in MODELS)
    tokenizers = dict.fromkeys(tokenizer.name for tokenizer in chat_tokenizers(config).values())
    tokens = [f"results/tokens/{name}" for name in tokenizers]
    return [*own_folders(config), *tokens, *(f"results/activations/{model}" for model in models)]
