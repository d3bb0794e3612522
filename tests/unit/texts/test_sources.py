"""From files, wheels and the hub to records."""

import io
import json
import os
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers_texts import documents, one_line, parquet

from crossdiff.config import TextSource
from crossdiff.config.text_files import ALLOWED
from crossdiff.texts.files import records
from crossdiff.texts.sources import read


def parse(name: str, content: bytes) -> list:
    """Give all records of a file."""
    return [record for record, _ in records(io.BytesIO(content), name)]


def read_texts(*arguments, **named) -> list:
    return [found.text for found in read(*arguments, **named)]


RECORDS = [{"text": "one\ntwo"}, {"text": "zwölf"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "  zwölf\nlines \n".encode(), ["zwölf\nlines"]),
        ("a.jsonl", "\n\n".join(json.dumps(record) for record in RECORDS).encode(), RECORDS),
        (
            "a.jsonl",
            "\r\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode(),
            RECORDS,
        ),
        ("a.json", json.dumps(RECORDS).encode(), RECORDS),
        ("a.json", json.dumps(RECORDS[0]).encode(), RECORDS[:1]),
        ("a.parquet", parquet(RECORDS), RECORDS),
        ("a.yaml", yaml.safe_dump(RECORDS[1]).encode(), RECORDS[1:]),
    ],
)
def test_records_of_each_ending(name, content, expected):
    assert parse(name, content) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_line_separators_inside_a_jsonl_text_do_not_end_the_record(separator):
    record = {"text": f"one{separator}two"}
    assert list(parse("a.jsonl", json.dumps(record, ensure_ascii=False).encode())) == [record]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[{]"),
        ("a.json", b""),
        ("a.parquet", b"PAR1 but no more"),
        ("a.parquet", parquet(RECORDS)[:-20]),
        ("a.yaml", b"a: [1, 2\nb: 3"),
    ],
)
def test_malformed_file_is_refused_by_name(name, content):
    assert one_line(parse, f"folder/{name}", content).startswith(
        f"folder/{name}: malformed {Path(name).suffix} ("
    )


def test_malformed_line_of_a_jsonl_file_stands_for_its_record():
    one, malformed, two = parse("a.jsonl", b'{"text": "one"}\n{"text": \n{"text": "two"}\n')
    assert (one, two) == ({"text": "one"}, {"text": "two"})
    assert (malformed.reason, malformed.record) == ("a line that is not JSON", '{"text": \n')


def test_unknown_ending_is_refused_with_the_allowed_ones():
    message = one_line(parse, "a.pdf.gz", b"")
    assert message == f"a.pdf.gz: unknown ending '.pdf.gz', allowed: {ALLOWED}"


@pytest.fixture
def two_files(tmp_path) -> list[Path]:
    (tmp_path / "z.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in ("one", "two", "three"))
    )
    (tmp_path / "a.txt").write_text("four")
    return [tmp_path / "z.jsonl", tmp_path / "a.txt"]


def test_files_are_read_in_the_order_of_the_config(two_files):
    assert read_texts(documents(*two_files), "pages") == ["one", "two", "three", "four"]
    assert read_texts(documents(*two_files[::-1]), "pages") == ["four", "one", "two", "three"]


@pytest.mark.parametrize("start", range(5))
def test_reading_goes_on_after_every_text(two_files, start):
    places = [None, *(found.after for found in read(documents(*two_files), "pages"))]
    left = list(read(documents(*two_files), "pages", start=places[start]))
    assert [found.text for found in left] == ["one", "two", "three", "four"][start:]
    assert [found.number for found in left] == [*range(start, 4)]


def test_missing_file_is_refused_by_name(tmp_path):
    assert (
        one_line(read, documents(tmp_path / "no.txt"), "pages")
        == f"{tmp_path / 'no.txt'}: can't be read (No such file or directory)"
    )


def test_texts_of_a_wheel_are_read_in_the_order_of_their_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.whl", "w") as wheel:
        for name in ("pkg/b.txt", "pkg/a.txt", "pkg/readme.md"):
            wheel.writestr(name, name)
    package = {"name": "texts", "version": "1", "sha256": "0" * 64, "file": "pkg/*.txt"}
    source = TextSource(kind="documents", format="text", package=package)
    assert read_texts(source, "pages", archive=str(tmp_path / "texts.whl")) == ["pkg/a.txt", "pkg/b.txt"]


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") != "1", reason="needs HF_HUB_OFFLINE=1")
@pytest.mark.parametrize(
    ("kind", "format"),
    [("documents", "text"), ("chats", "messages"), ("chats", "dialogue"), ("chats", "requests")],
)
def test_hub_data_set_without_a_network_is_refused_by_name(kind, format):
    source = TextSource(kind=kind, format=format, hub={"name": "org/no-such-data", "revision": "main"})
    assert one_line(read, source, "pages").startswith(
        "dataset pages: hub data set org/no-such-data@main can't be read ("
    )
