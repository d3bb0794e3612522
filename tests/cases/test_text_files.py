"""Files of texts as people have them: names that lie, links, odd rows, and sources that stop and go on."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers_texts import TOKENIZERS, assistant, documents, one_line, parquet, user, write_jsonl

from crossdiff.config import TextSource
from crossdiff.texts.counts import read_counts
from crossdiff.texts.first_record import check_fields
from crossdiff.texts.shards import read_shard
from crossdiff.texts.sources import read
from crossdiff.texts.tokenising import tokenise_shard
from crossdiff.texts.unusable import Unusable

TOKENIZER = TOKENIZERS["chatml"]
LINES = b'{"text": "one"}\n{"text": "two"}\n'


def source(*files: Path | str, **more: object) -> TextSource:
    return documents(*files, **more)


def texts_of(*files: Path | str) -> list[str]:
    """The texts, and for records that can't be used the reason."""
    return [
        found.text.reason if isinstance(found.text, Unusable) else found.text
        for found in read(source(*files), "pages")
    ]


def chats_of(path: Path, **more: object) -> list[object]:
    chats = TextSource(kind="chats", format="messages", files=[str(path)], **more)
    return [found.text for found in read(chats, "talks")]


# Names that lie.


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.jsonl", gzip.compress(LINES), "looks like gzip, add .gz to its name"),
        ("a.csv", zstandard.compress(LINES), "looks like Zstandard, add .zst to its name"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINES)), "looks like gzip, add .gz to its name"),
        ("a.json", parquet([{"text": "one"}]), "looks like Parquet, name it .parquet"),
        ("a.jsonl", b"PK\x03\x04 and more", "looks like a zip archive, unpack it"),
        (
            "a.jsonl",
            json.dumps([{"text": "one"}], indent=1).encode(),
            "one value over several lines, name it .json",
        ),
        ("a.jsonl", b'{\n "text": "one"\n}\n', "looks like one value over several lines, name it .json"),
    ],
    ids=["gzip", "zstd", "gzip twice", "parquet", "zip", "pretty list", "pretty object"],
)
def test_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(raw)
    assert one_line(texts_of, tmp_path / name).startswith(f"{tmp_path / name}: ")
    assert one_line(texts_of, tmp_path / name).endswith(said)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_pointer_of_git_lfs_is_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert one_line(texts_of, tmp_path / name).endswith("fetch the file with git lfs pull")


def test_malformed_first_line_is_one_record_and_not_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "no end\n' + LINES)
    assert texts_of(tmp_path / "a.jsonl") == ["a line that is not JSON", "one", "two"]


# Files with little in them.


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("b.jsonl", b""),
        ("b.jsonl", b"\n\r\n \n"),
        ("b.jsonl", b"\xef\xbb\xbf"),
        ("b.jsonl.gz", gzip.compress(b"")),
        ("b.jsonl.zst", zstandard.compress(b"")),
    ],
    ids=["nothing", "blank lines", "byte order mark", "gzip", "zstd"],
)
def test_empty_file_among_many_is_passed_over(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / name).write_bytes(raw)
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "three"}')  # and no line feed at its end
    found = list(read(source(tmp_path), "pages"))
    assert [read.text for read in found] == ["one", "two", "three"]
    assert [read.text for read in read_from(source(tmp_path), found[1].after)] == ["three"]


def read_from(given: TextSource, place: object) -> list:
    return list(read(given, "pages", start=place))


@pytest.mark.parametrize("raw", [b"text\r\n", b"text\n", b"text"], ids=["windows", "unix", "no end"])
def test_table_with_a_header_and_no_rows_has_no_texts(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    assert texts_of(tmp_path / "a.csv") == []


def test_parquet_without_rows_has_no_texts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == []


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.parquet"])
def test_file_of_no_bytes_that_can_not_be_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert one_line(texts_of, tmp_path / name).startswith(f"{tmp_path / name}: malformed ")


# Rows of tables.


def test_row_that_is_not_utf_8_is_skipped_and_those_after_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,one\n2,caf\xe9\n3,"zw\xc3\xb6lf"\n')
    assert texts_of(tmp_path / "a.csv") == ["one", "a row that is not UTF-8", "zwölf"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,id,text\none,1,other\n")
    assert one_line(texts_of, tmp_path / "a.csv").endswith("two columns have the name 'text'; rename one")


def test_quoted_line_feeds_of_windows_stay_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\r\n"one\r\nmore ""quoted"""\r\ntwo\r\n')
    found = list(read(source(tmp_path / "a.csv"), "pages"))
    assert [read.text for read in found] == ['one\r\nmore "quoted"', "two"]
    assert [read.text for read in read_from(source(tmp_path / "a.csv"), found[0].after)] == ["two"]


def test_quote_that_never_ends_costs_one_record_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\none\n"two\nthree\n')
    assert texts_of(tmp_path / "a.csv") == ["one", "a row that is not CSV (unexpected end of data)"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.ndjson.zst"])
def test_column_with_another_name_is_told_when_the_config_is_read(tmp_path: Path, name: str) -> None:
    raw = {
        "a.csv": b"id;text\n1;one\n",
        "a.jsonl": b'\n{"body": "one"}\n',
        "a.jsonl.gz": gzip.compress(b'\xef\xbb\xbf{"body": "one"}\n'),
        "a.parquet": parquet([{"body": "one"}]),
        "a.ndjson.zst": zstandard.compress(b'{"body": "one"}\n'),
    }[name]
    (tmp_path / name).write_bytes(raw)
    said = one_line(lambda: check_fields({"pages": source(tmp_path / name)}))
    found = "id;text" if name == "a.csv" else "body"
    assert said == (
        f"datasets.pages.field: the first record of {tmp_path / name} has no 'text'; found: {found}; "
        "name one of these fields"
    )


# Nested values.


def test_nested_messages_of_parquet_are_those_of_json_lines(tmp_path: Path) -> None:
    """Arrow gives every turn the keys that any turn has, with null in them."""
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    records = [
        {"messages": [user("Hi."), assistant("Yo.")]},
        {"messages": [user("1?"), {"role": "assistant", "content": None, "tool_calls": [call]}]},
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert chats_of(tmp_path / "a.parquet") == chats_of(tmp_path / "a.jsonl")
    assert "tool_calls" in chats_of(tmp_path / "a.parquet")[1][1]
    assert set(chats_of(tmp_path / "a.parquet")[0][0]) == {"role", "content"}


def test_messages_of_a_table_may_be_json_text(tmp_path: Path) -> None:
    turns = [user('He said "hi", twice.\nThen left.'), assistant("Yo.")]
    quoted = json.dumps(turns).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'id,messages\n1,"{quoted}"\n')
    assert chats_of(tmp_path / "a.csv") == [turns]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()], ids=str
)
def test_text_of_parquet_in_other_types_is_the_same_text(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["one", "two", "one"])
    pq.write_table(pa.table({"text": values.cast(kind)}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["one", "two", "one"]


# Lone surrogates.


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_lone_surrogates_become_replacement_characters_and_are_counted(tmp_path: Path, name: str) -> None:
    raw = '[{"text": "caf\\u00e9 \\ud83d end"}, {"text": "\\ud83d\\ude42 is whole, and so is this text"}]'
    lines = raw[1:-1].replace("}, {", "}\n{")
    (tmp_path / name).write_text(raw if name == "a.json" else lines)
    shard = tmp_path / "shard.parquet"
    given = source(tmp_path / name, validation_fraction=1e-9)
    tokens = sum(
        len(TOKENIZER(text)["input_ids"]) for text in ("café \ufffd end", "🙂 is whole, and so is this text")
    )
    tokenise_shard(given, "pages", "train", TOKENIZER, 64, tokens, shard, tmp_path / "next.json")
    assert TOKENIZER.decode(read_shard(shard).token) == "café \ufffd end🙂 is whole, and so is this text"
    assert read_counts(tmp_path / "next.json")["notes"] == {"lone surrogates replaced": 1}


def test_lone_surrogates_in_any_part_of_a_chat_are_replaced(tmp_path: Path) -> None:
    record = {
        "messages": [user("a \ud800 b"), assistant("yes, it is what I said")],
        "tools": [{"name": "\udfff"}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    given = TextSource(
        kind="chats", format="messages", files=[str(tmp_path / "a.jsonl")], validation_fraction=1e-9
    )
    shard = tmp_path / "shard.parquet"
    tokenise_shard(given, "talks", "train", TOKENIZER, 64, 20, shard, tmp_path / "next.json")
    assert "a \ufffd b" in TOKENIZER.decode(read_shard(shard).token)
    assert read_counts(tmp_path / "next.json")["notes"]["lone surrogates replaced"] == 1


# Links and several names for one file.


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    write_jsonl(folder / "a.jsonl", ["a"])
    write_jsonl(folder / "deep/b.jsonl", ["b"])
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("named", ["corpus", "corpus/**/*.jsonl"])
def test_links_in_a_circle_do_not_repeat_texts(corpus: Path, named: str) -> None:
    (corpus / "deep/loop").symlink_to(corpus, target_is_directory=True)
    assert texts_of(named) == ["a", "b"]


def test_folder_behind_a_link_is_read(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_jsonl(tmp_path / "elsewhere/c.jsonl", ["c"])
    (corpus / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert texts_of("corpus") == ["a", "b", "c"]


@pytest.mark.parametrize("named", ["corpus", "corpus/*.jsonl"])
def test_second_name_of_a_file_in_one_folder_does_not_repeat_its_texts(corpus: Path, named: str) -> None:
    (corpus / "latest.jsonl").symlink_to("a.jsonl")
    assert texts_of(named)[0] == "a" and "latest" not in str(source(named).local_files("x"))
    assert texts_of(named).count("a") == 1


@pytest.mark.parametrize(
    ("named", "also"),
    [
        (["corpus/a.jsonl", "./corpus/a.jsonl"], ""),
        (["corpus/*.jsonl", "corpus/deep/../a.jsonl"], ", also as corpus/a.jsonl"),
        (["corpus", "link.jsonl"], ", also as corpus/a.jsonl"),
    ],
    ids=["dot", "dots", "link"],
)
def test_file_under_two_names_in_the_config_is_refused(
    corpus: Path, tmp_path: Path, named: list[str], also: str
) -> None:
    (tmp_path / "link.jsonl").symlink_to(corpus / "a.jsonl")
    said = one_line(lambda: texts_of(*named))
    assert f" is named twice{also}; name each file once" in said


@pytest.mark.parametrize("named", ["corpus", "corpus/*.jsonl"])
def test_link_that_leads_nowhere_is_named(corpus: Path, named: str) -> None:
    (corpus / "c.jsonl").symlink_to("gone.jsonl")
    said = one_line(lambda: texts_of(named))
    assert said.endswith(f"found {named}, in which corpus/c.jsonl leads to no plain file")


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert "a.jsonl, which is no plain file" in one_line(lambda: texts_of(tmp_path / "a.jsonl"))


def test_home_of_nobody_is_one_line(tmp_path: Path) -> None:
    said = one_line(lambda: texts_of("~no-such-user-here/a.jsonl"))
    assert said.endswith("found ~no-such-user-here/a.jsonl, there is no such user")


def test_folder_of_save_to_disk_says_how_to_read_it(tmp_path: Path) -> None:
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    said = one_line(lambda: texts_of(tmp_path))
    assert said.endswith("load it with datasets.load_from_disk, and write it with to_parquet")


def test_folder_whose_name_has_an_ending_is_a_folder(tmp_path: Path) -> None:
    """Spark writes such folders."""
    (tmp_path / "out.jsonl").mkdir()
    (tmp_path / "out.jsonl/part-00000.json").write_bytes(LINES)
    (tmp_path / "out.jsonl/_SUCCESS").write_text("")
    assert texts_of(tmp_path / "out.jsonl") == ["one", "two"]


# Sources that stop.


class Stream(list):
    """Records of a hub data set, of which the network gives no more than ``some``."""

    def __init__(self, records: list[dict[str, str]], some: int, error: Exception) -> None:
        super().__init__(records)
        self.some, self.error, self.first = some, error, 0

    def __iter__(self):
        for number in range(self.first, len(self)):
            if number == self.some:
                raise self.error
            self.first = number + 1
            yield self[number]

    def state_dict(self) -> dict[str, int]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["first"]


class Timeout(Exception):
    """An error that is no OSError, as libraries for the network have it."""


@pytest.mark.parametrize("error", [Timeout("The read operation timed out"), ConnectionError("reset by peer")])
def test_hub_stream_that_stops_is_one_line_and_starts_again_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import datasets

    records = [{"text": f"the user said {number}"} for number in range(3000)]
    some = [len(records) + 1]
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **named: Stream(records, some[0], error))
    given = TextSource(
        kind="documents",
        format="text",
        hub={"name": "org/texts", "revision": "main"},
        validation_fraction=0.1,
    )

    def shards(folder: str, first: int, last: int) -> list[bytes]:
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(first, last):
            path, previous = (tmp_path / folder / f"{n}" for n in (number, number - 1))
            tokenise_shard(
                given,
                "pages",
                "train",
                TOKENIZER,
                64,
                3000,
                path.with_suffix(".parquet"),
                path.with_suffix(".json"),
                previous=previous.with_suffix(".json") if number else None,
            )
        return [(tmp_path / folder / f"{number}.parquet").read_bytes() for number in range(last)]

    whole = shards("whole", 0, 5)
    some[0] = 1500
    said = one_line(shards, "stopped", 0, 5)
    assert said == f"dataset pages: hub data set org/texts@main can't be read ({error})"
    done = len(list((tmp_path / "stopped").glob("*.parquet")))
    assert 0 < done < 5 and not list((tmp_path / "stopped").glob("*tmp*"))
    some[0] = len(records) + 1
    assert shards("stopped", done, 5) == whole


def test_texts_that_come_to_the_end_of_a_file_leave_shards_as_they_were(tmp_path: Path) -> None:
    """A file that grows, such as a log. What a job read while it grew is refused by ``recording``."""
    texts = [f"the user said {number}" for number in range(2000)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    made = []
    for more in (b"", b'{"text": "half a li'):
        with path.open("ab") as file:
            file.write(more)
        shard = tmp_path / "shard.parquet"
        tokenise_shard(source(path), "pages", "train", TOKENIZER, 64, 3000, shard, tmp_path / "next.json")
        made.append((shard.read_bytes(), shard.stat().st_mtime_ns, (tmp_path / "next.json").read_text()))
    assert made[0] == made[1]
