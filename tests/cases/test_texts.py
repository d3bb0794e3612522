"""Texts as people have them: files of every kind, and many shards."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers_config import refusal_of
from helpers_texts import TOKENIZERS, documents, one_line, prose, write_jsonl

from crossdiff.config import TextSource
from crossdiff.config.text_files import ALLOWED
from crossdiff.texts.counts import read_counts
from crossdiff.texts.shards import read_shard
from crossdiff.texts.sources import read
from crossdiff.texts.tokenising import tokenise_shard

TEXTS = ["one", "zwölf\nlines", 'a "quoted", text', "\u2028 separators \x85", "", "last 🙂"]
RECORDS = [{"text": text} for text in TEXTS]


def jsonl(records=RECORDS) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def comma_separated() -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["id", "text"])
    writer.writeheader()
    writer.writerows({"id": number, "text": text} for number, text in enumerate(TEXTS))
    return file.getvalue().encode()


def arrow(row_group_size: int = 2) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, row_group_size=row_group_size)
    return sink.getvalue().to_pybytes()


KINDS = {
    "a.jsonl": jsonl(),
    "a.ndjson": jsonl().replace(b"\n", b"\r\n\r\n").removesuffix(b"\r\n\r\n"),
    "a.json": json.dumps(RECORDS, indent=2).encode(),
    "one-line.json": json.dumps(RECORDS, ensure_ascii=False).encode(),
    "lines.json": jsonl(),
    "a.csv": comma_separated(),
    "a.parquet": arrow(),
    "A.JSONL": jsonl(),
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def texts_of(path, **more) -> list[str]:
    return [found.text for found in read(documents(path, **more), "pages")]


# Kinds of files.


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", KINDS)
def test_records_of_every_kind_of_file_and_the_place_after_each(tmp_path, name, compression):
    path = tmp_path / (name + compression)
    path.write_bytes(COMPRESSIONS[compression](KINDS[name]))
    whole = list(read(documents(path), "pages"))
    assert [found.text for found in whole] == TEXTS
    for found in whole:
        rest = list(read(documents(path), "pages", start=found.after))
        assert rest == whole[found.number + 1 :]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_text_file_is_one_document(tmp_path, compression):
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESSIONS[compression](b"\xef\xbb\xbf  one\n\ntwo\n"))
    [found] = read(documents(path), "pages")
    assert found.text == "one\n\ntwo"
    assert not list(read(documents(path), "pages", start=found.after))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "one-line.json", "lines.json", "a.csv"])
def test_byte_order_mark_is_no_part_of_the_first_record(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + KINDS[name])
    whole = list(read(documents(tmp_path / name), "pages"))
    assert [found.text for found in whole] == TEXTS
    assert list(read(documents(tmp_path / name), "pages", start=whole[0].after)) == whole[1:]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_utf_16_is_named(tmp_path, name):
    (tmp_path / name).write_bytes('{"text": "one"}\n'.encode("utf-16"))
    assert one_line(texts_of, tmp_path / name) == (
        f"{tmp_path / name}: UTF-16 text, only UTF-8 is read; convert it with iconv -f UTF-16 -t UTF-8"
    )


@pytest.mark.parametrize("parts", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
def test_compressed_file_of_several_parts_is_read_to_its_end(tmp_path, parts):
    path = tmp_path / ("a.jsonl.gz" if parts is gzip.compress else "a.jsonl.zst")
    path.write_bytes(parts(jsonl(RECORDS[:2])) + parts(jsonl(RECORDS[2:])))
    assert texts_of(path) == TEXTS


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no " + raw], ids=["cut", "other"]
)
def test_damaged_compressed_file_is_refused_by_name(tmp_path, compression, damage):
    records = [{"text": f"text {number * number}"} for number in range(2000)]
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(damage(COMPRESSIONS[compression](jsonl(records))))
    assert one_line(texts_of, path).startswith(f"{path}: malformed .jsonl{compression} (")


def test_list_that_goes_on_after_its_end_says_what_it_looks_like(tmp_path):
    (tmp_path / "a.json").write_text('["one"]\n["two"]\n')
    assert one_line(texts_of, tmp_path / "a.json") == (
        f"{tmp_path / 'a.json'}: text after the end of the list; if each line is a value, name it .jsonl"
    )


@pytest.mark.parametrize("raw", ['[{"text": "one"} {"text": "two"}]', '[{"text": "one"},', '[{"text": "o'])
def test_malformed_list_is_refused_after_its_whole_elements(tmp_path, raw):
    (tmp_path / "a.json").write_text(raw)
    assert one_line(texts_of, tmp_path / "a.json").startswith(f"{tmp_path / 'a.json'}: malformed .json (")


@pytest.mark.parametrize("raw", ["[]", " [ ] \n", '[{"text": "one"}, ]'])
def test_empty_list_and_a_comma_at_the_end(tmp_path, raw):
    (tmp_path / "a.json").write_text(raw)
    assert texts_of(tmp_path / "a.json") == (["one"] if "one" in raw else [])


def test_element_longer_than_what_is_read_at_a_time(tmp_path):
    long = ["ü" * (3 << 20), "after"]
    (tmp_path / "a.json").write_text(json.dumps(long, ensure_ascii=False), encoding="utf-8")
    whole = list(read(documents(tmp_path / "a.json"), "pages"))
    assert [found.text for found in whole] == long
    assert [found.text for found in read(documents(tmp_path / "a.json"), "pages", start=whole[0].after)] == [
        "after"
    ]


def test_quoted_line_feeds_do_not_end_a_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text\r\n"one\r\ntwo"\r\n\r\nthree\r\n')
    assert texts_of(tmp_path / "a.csv") == ["one\r\ntwo", "three"]


def test_field_longer_than_the_csv_module_allows_by_itself(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert list(map(len, texts_of(tmp_path / "a.csv"))) == [200_000]


# Which files.


@pytest.mark.parametrize("name", ["a.pdf", "a.jsonl.bz2", "a.gz", "data/*.doc"])
def test_unknown_ending_is_refused_when_the_config_is_read(name):
    found = "".join(Path(name).suffixes)
    assert refusal_of("datasets.pages.files", [name]) == (
        f"datasets.pages.files: found {name}, unknown ending {found!r}, allowed: {ALLOWED}"
    ).replace("'.jsonl.bz2'", "'.bz2'")


def test_unknown_ending_in_a_package_is_refused_when_the_config_is_read():
    package = {"name": "p", "version": "1", "sha256": "0" * 64, "file": "p/*.rst"}
    values = {"kind": "documents", "format": "text", "package": package, "tokens": 1, "validation_tokens": 1}
    assert "found p/*.rst, unknown ending '.rst'" in refusal_of("datasets.pages", values)


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    for name in (
        "b.jsonl",
        "a.jsonl.gz",
        "deep/c.ndjson",
        ".hidden.jsonl",
        ".git/d.jsonl",
        "LICENSE",
        "x.md",
    ):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = jsonl([{"text": name}])
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "corpus"


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (["corpus/*.jsonl*"], ["a.jsonl.gz", "b.jsonl"]),
        (["corpus/**/*.*json*"], ["a.jsonl.gz", "b.jsonl", "deep/c.ndjson"]),
        (["~/corpus/b.jsonl"], ["b.jsonl"]),
        (["~/corpus/deep", "corpus/b.jsonl"], ["deep/c.ndjson", "b.jsonl"]),
    ],
)
def test_folders_globs_and_home(corpus, named, found):
    source = documents(*named)
    assert [text.text for text in read(source, "pages")] == found


def test_file_whose_name_looks_like_a_glob_is_itself(tmp_path):
    (tmp_path / "a[1].jsonl").write_bytes(jsonl())
    assert texts_of(tmp_path / "a[1].jsonl") == TEXTS


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["corpus"], "found corpus, which holds .jsonl and .ndjson files; name those to read with a glob"),
        (["corpus/no*.jsonl"], "found corpus/no*.jsonl, no file has such a name"),
        (["corpus/*"], "found corpus/*, which matches corpus/LICENSE; allowed endings"),
        (["corpus/.git", "corpus/.git/*.jsonl"], "corpus/.git/d.jsonl is named twice; name each file once"),
        (["corpus/empty"], "found corpus/empty, a folder without files that end in .jsonl"),
    ],
)
def test_folder_or_glob_that_does_not_say_what_to_read_is_refused(corpus, named, said):
    (corpus / "empty").mkdir()
    (corpus / "empty/notes.md").write_text("none")
    source = documents(*named)
    assert one_line(read, source, "pages").startswith(f"config: datasets.pages.files: {said}")


# Shards.


def write_shards(source, folder: Path, count: int, tokens: int = 400, tokenizer=TOKENIZERS["llama3"]):
    """Write ``count`` shards of the training split; give their contents."""
    folder.mkdir(exist_ok=True)
    previous, found = None, []
    for number in range(count):
        path, following = folder / f"{number}.parquet", folder / f"{number}.next.json"
        tokenise_shard(source, "pages", "train", tokenizer, 64, tokens, path, following, previous=previous)
        previous = following
        found.append(read_shard(path))
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.json", "a.parquet"])
def test_shards_of_every_kind_of_file_are_the_same(tmp_path, name):
    texts = [prose(40, seed) for seed in range(200)]
    records = [{"text": text} for text in texts]
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(jsonl(records))
    path = tmp_path / name
    if ".csv" in name:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
    elif ".parquet" in name:
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=30)
    else:
        raw = json.dumps(records).encode() if name == "a.json" else jsonl(records)
        path.write_bytes(COMPRESSIONS[path.suffix if path.suffix in COMPRESSIONS else ""](raw))
    expected = write_shards(documents(plain), tmp_path / "expected", 6)
    for one, two in zip(expected, write_shards(documents(path), tmp_path / "found", 6), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_many_shards_read_a_file_once(tmp_path, monkeypatch):
    """Apart from the last text of a shard, and what is read ahead."""
    path = write_jsonl(tmp_path / "a.jsonl", [prose(300, seed) for seed in range(400)])
    sizes = []

    class Counted(io.BufferedReader):
        def readline(self, *arguments):
            line = super().readline(*arguments)
            sizes.append(len(line))
            return line

        def __next__(self):
            line = super().__next__()
            sizes.append(len(line))
            return line

    plain = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *mode, **more: Counted(io.FileIO(self)) if self == path else plain(self, *mode, **more),
    )
    monkeypatch.setattr("crossdiff.texts.tokenising.BATCH", 1)
    source = documents(path)
    write_shards(source, tmp_path / "shards", 50, tokens=3000)
    assert sum(sizes) < 1.5 * path.stat().st_size


def test_hub_stream_goes_on_from_its_state(tmp_path, monkeypatch):
    import datasets

    texts = [prose(20, seed) for seed in range(2500)]
    for part in range(2):
        rows = [{"text": text} for text in texts[part * 1250 : part * 1250 + 1250]]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{part}.parquet", row_group_size=200)
    given = []

    def load(name, subset, split, revision, streaming):
        given.append(name)
        files = [str(tmp_path / "0.parquet"), str(tmp_path / "1.parquet")]
        return load_dataset("parquet", data_files=files, split="train", streaming=True)

    load_dataset = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = TextSource(kind="documents", format="text", hub={"name": "org/texts", "revision": "main"})
    whole = list(read(source, "pages"))
    assert [found.text for found in whole] == texts
    for number in (0, 700, 999, 1000, 1001, 1249, 1250, 2100, 2499):
        after = whole[number].after
        assert json.loads(json.dumps(after._asdict())) == after._asdict()
        assert (after.state is None) == (number < 1000) and after.offset <= 1000
        rest = list(read(source, "pages", start=after))
        assert [found.text for found in rest] == texts[number + 1 :]


# Records that can't be read.

ODD = {
    "a.jsonl": (b'{"text": "no end', "a line that is not JSON"),
    "b.jsonl": (b'{"text": "\xff"}', "a line that is not UTF-8"),
    "c.jsonl": (b'{"body": "another field"}', "no field 'text'; found: body"),
    "lines.json": (b'{"text": "no end', "a line that is not JSON"),
    "a.csv": (b'"one", "more"', "a row of 2 columns under a header of 1"),
}


@pytest.mark.parametrize("name", ODD)
def test_malformed_record_of_many_is_skipped_and_counted_once(tmp_path, name):
    """In one split, in the shard that it lies in."""
    raw, reason = ODD[name]
    texts = [prose(30, seed).replace("\n", " ") for seed in range(300)]
    lines = [
        text.replace(",", "").encode() if name == "a.csv" else jsonl([{"text": text}])[:-1] for text in texts
    ]
    lines.insert(20, raw)
    head = [b"text"] if name == "a.csv" else []
    (tmp_path / name).write_bytes(b"\n".join([*head, *lines]) + b"\n")
    source = documents(tmp_path / name, validation_fraction=0.5)
    skipped = []
    for split in ("train", "validation"):
        previous, records = None, 0
        for number in range(4):
            path, following = tmp_path / f"{split}{number}.parquet", tmp_path / f"{split}{number}.json"
            tokenise_shard(
                source, "pages", split, TOKENIZERS["llama3"], 64, 2000, path, following, previous=previous
            )
            counts, previous = read_counts(following), following
            records += counts["records"]
            skipped += counts["skipped"].items()
        assert json.loads(previous.read_text())["so_far"]["records"] == records
    assert skipped == [(reason, 1)]
