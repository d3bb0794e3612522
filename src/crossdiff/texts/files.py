"""Read the records of one file as a stream, each with the place after it.

A place is a number from which reading can go on. It counts bytes of the decompressed file where records are
lines, rows of CSV or elements of a JSON list. It counts rows in Parquet. Files of one record have place 1.
"""

import codecs
import csv
import io
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import yaml
from yaml import YAMLError

from crossdiff.config.text_files import ALLOWED, ENDINGS, ending
from crossdiff.errors import UserError
from crossdiff.texts.unusable import Unusable

Placed = Iterator[tuple[Any, int]]  # (record or Unusable, place after it)

BUFFER = 1 << 20  # bytes that are read at a time
ROWS = 1000  # of a Parquet file that are in memory at a time
ARROW_NAMES = {".gz": "gzip", ".zst": "zstd"}
# First bytes of files that are not what their name says -> what they are, and what to do.
LOOKS_LIKE = {
    b"\x1f\x8b": "gzip, add .gz to its name",
    b"\x28\xb5\x2f\xfd": "Zstandard, add .zst to its name",
    b"PAR1": "Parquet, name it .parquet",
    b"PK\x03\x04": "a zip archive, unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, fetch the file with git lfs pull",
}
_BETWEEN = re.compile(r"\s*([\[,\]]?)\s*")  # elements of a JSON list


def records(file: BinaryIO, name: str, place: int = 0) -> Placed:
    """The records of an open file from ``place`` on, read by the ending of its ``name``.

    A record that can't be read is an Unusable, and those after it follow. A compressed file is decompressed
    up to the place, and not parsed.

    Raises UserError for an unknown ending, and for a file that is damaged as a whole.
    """
    kind, compression = ending(name)
    if kind not in ENDINGS:
        raise UserError(f"{name}: unknown ending {kind + compression!r}, allowed: {ALLOWED}")
    try:
        plain = _decompressed(file, compression)
        _check_content(plain, name, kind)
        match kind:
            case ".jsonl" | ".ndjson":
                yield from _lines(plain, name, _forward(plain, _start(plain, name), place))
            case ".json":
                yield from _json(plain, name, place)
            case ".csv":
                yield from _rows(plain, name, place)
            case ".parquet":
                yield from _parquet(plain, place)
            case _ if place == 0:  # one text or value
                yield _document(plain, name) if kind == ".txt" else yaml.safe_load(plain), 1
    except (ValueError, YAMLError, OSError, RecursionError, NotImplementedError) as error:
        found = f"malformed {kind}{compression} ({' '.join(str(error).split())})"
        raise UserError(f"{name}: {found}") from error


def _decompressed(file: BinaryIO, compression: str) -> io.BufferedReader:
    raw: Any = file
    if compression:
        import pyarrow as pa  # not at the top, because most files are not compressed

        if not file.read(1):
            raise ValueError("no bytes")
        file.seek(0)
        # Notices a truncated file, and reads all members of a file of several.
        raw = pa.input_stream(file, compression=ARROW_NAMES[compression], buffer_size=BUFFER)
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, BUFFER)


def _check_content(file: io.BufferedReader, name: str, kind: str) -> None:
    """Raises UserError if the file begins like one of another kind."""
    head = file.peek(max(map(len, LOOKS_LIKE)))
    for start, looks_like in LOOKS_LIKE.items():
        if head.startswith(start) and not (kind == ".parquet" and start == b"PAR1"):
            raise UserError(f"{name}: looks like {looks_like}")


def _start(file: io.BufferedReader, name: str) -> int:
    """Read a byte order mark, and give its length in bytes. Raises UserError for UTF-16."""
    head = file.peek(len(codecs.BOM_UTF8))
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name}: UTF-16 text, only UTF-8 is read; convert it with iconv -f UTF-16 -t UTF-8")
    return len(file.read(len(codecs.BOM_UTF8))) if head.startswith(codecs.BOM_UTF8) else 0


def _forward(file: io.BufferedReader, here: int, place: int) -> int:
    """Move forward from the byte ``here`` to ``place``, if it lies further on. Gives the byte reached."""
    if place <= here:
        return here
    if file.seekable():
        return file.seek(place)
    left = place - here
    while left and (read := len(file.read(min(left, BUFFER)))):
        left -= read
    return place - left


def _lines(file: io.BufferedReader, name: str, place: int) -> Placed:
    """One JSON value per line. Lines end at a line feed only: JSON strings may hold other separators."""
    first = place == 0
    for line in file:
        place += len(line)
        if stripped := line.strip():
            if first and stripped in (b"{", b"["):
                raise UserError(f"{name}: looks like one value over several lines, name it .json")
            first = False
            yield _value(line, name), place


def _value(line: bytes, name: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Unusable("a line that is not UTF-8", line.decode("utf-8", "replace"), name)
    except (ValueError, RecursionError):
        return Unusable("a line that is not JSON", line.decode("utf-8"), name)


def _json(file: io.BufferedReader, name: str, place: int) -> Placed:
    """A list of records, one record, or one record per line. A single record is read as a whole."""
    start = _start(file, name)
    if file.peek(1).lstrip().startswith(b"["):
        yield from _elements(file, name, _forward(file, start, place), place == 0)
        return
    line = file.readline()
    if _is_value(line):
        if place == 0:
            yield json.loads(line), start + len(line)
        yield from _lines(file, name, _forward(file, start + len(line), place))
    elif place == 0:
        yield json.loads((line + file.read()).decode("utf-8")), 1


def _is_value(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _elements(file: io.BufferedReader, name: str, place: int, opening: bool) -> Placed:
    """The elements of a JSON list from byte ``place`` on, where the list opens or an element has ended."""
    decode, parse = codecs.getincrementaldecoder("utf-8")().decode, json.JSONDecoder().raw_decode
    text, here, ended, size = "", 0, False, BUFFER
    while True:
        found = cast(re.Match[str], _BETWEEN.match(text, here))
        if found.end() < len(text) or ended:
            if found[1] == "]" or text.startswith("]", found.end()):
                break
            if found[1] != ("[" if opening else ","):
                raise ValueError(f"no ',' or ']' after byte {place}")
            try:
                value, end = parse(text, found.end())
            except ValueError as error:
                if ended:
                    raise ValueError(f"after byte {place}: {error}") from error
            else:
                if end < len(text) or ended:
                    place += len(text[here:end].encode("utf-8"))
                    here, opening, size = end, False, BUFFER
                    yield value, place
                    continue
        # The next element is not whole yet. Twice as much is read each time, so long ones don't take long.
        more = file.read(size)
        ended, size = not more, 2 * size
        text, here = text[here:] + decode(more, ended), 0
    if text[found.end() :].strip("] \t\r\n") or file.read(BUFFER).strip():
        raise UserError(f"{name}: text after the end of the list; if each line is a value, name it .jsonl")


def _rows(file: io.BufferedReader, name: str, place: int) -> Placed:
    """Rows of a CSV file as {column: text}. The first row names the columns."""
    csv.field_size_limit(sys.maxsize)  # the csv module's own limit is 128 KiB
    counted = _Lines(file, _start(file, name))
    columns = next(csv.reader(counted, strict=True), [])
    if twice := [column for column, times in Counter(columns).items() if times > 1]:
        raise UserError(f"{name}: two columns have the name {twice[0]!r}; rename one")
    counted.place = _forward(file, counted.place, place)
    rows = csv.reader(counted, strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Unusable(f"a row that is not CSV ({error})", "", name), counted.place
            continue
        if not all(map(_is_utf8, row)):
            yield Unusable("a row that is not UTF-8", ",".join(row), name), counted.place
        elif row and len(row) != len(columns):
            reason = f"a row of {len(row)} columns under a header of {len(columns)}"
            yield Unusable(reason, ",".join(row), name), counted.place
        elif row:
            yield dict(zip(columns, row, strict=True)), counted.place


class _Lines:
    """Lines of a file as text, and how many bytes they have taken. The csv module reads no line ahead."""

    def __init__(self, file: io.BufferedReader, place: int) -> None:
        self.file, self.place = file, place

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.place += len(line)
        return line.decode("utf-8", "surrogateescape")


def _is_utf8(value: str) -> bool:
    return value.isascii() or not any("\udc80" <= character <= "\udcff" for character in value)


def _parquet(file: io.BufferedReader, place: int) -> Placed:
    import pyarrow.parquet as pq

    source: Any = file
    if not file.seekable():  # decompressed, but Parquet is read from its end
        source = tempfile.TemporaryFile()
        shutil.copyfileobj(file, source, BUFFER)
    with pq.ParquetFile(source) as table:
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row + rows <= place:
                row += rows
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group]):
                first = max(0, min(place - row, len(batch)))
                for number, record in enumerate(batch.slice(first).to_pylist(), row + first + 1):
                    yield record, number
                row += len(batch)


def _document(file: io.BufferedReader, name: str) -> Any:
    """The whole file as one text."""
    _start(file, name)
    try:
        return file.read().decode("utf-8").strip()
    except UnicodeDecodeError:
        return Unusable("a .txt file that is not UTF-8", name, name)
