"""Texts as people have them: files of every kind, long documents, many shards, and sources that change."""

import csv
import gzip
import io
import json
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import TINY, Checkout, planned
from helpers_config import refusal_of
from helpers_texts import TOKENIZERS, documents, one_line, write_jsonl
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crossdiff.config import TextSource
from crossdiff.config.text_files import ALLOWED
from crossdiff.texts import documents as long_documents
from crossdiff.texts.counts import read_counts
from crossdiff.texts.documents import document_windows, ids_in_pieces
from crossdiff.texts.shards import read_shard
from crossdiff.texts.sources import read
from crossdiff.texts.splits import document_id, in_split
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


# Long documents.

WORDS = [
    *"the user said us and a yes no zwölf Straße don't we'll 12345 1,000.5 x_y".split(),
    "🙂",
    "日本",
    "--",
]
SPACES = [" "] * 12 + ["\n", "\n\n", "  ", "\t", " \n ", ", ", ". "]


def prose(words: int, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    chosen = zip(random.choice(WORDS, words), random.choice(SPACES, words), strict=True)
    return "".join(word + space for word, space in chosen)


def trained(model, trainer, *, normalizer=None, split=None, then=None) -> PreTrainedTokenizerFast:
    """A small tokenizer. ``then`` replaces the pre-tokenizer after the training."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if split is not None:
        tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator([prose(400, seed) for seed in range(20)], trainer)
    if then is not None:
        tokenizer.normalizer = then
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SENTENCEPIECE = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def bpe(size: int = 400, alphabet=()):
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>"], initial_alphabet=list(alphabet), show_progress=False
    )


def of_kind(kind: str) -> PreTrainedTokenizerFast:
    match kind:
        case "bytes, as GPT-2":
            return trained(
                models.BPE(), bpe(alphabet=BYTES), split=pre_tokenizers.ByteLevel(add_prefix_space=False)
            )
        case "bytes with a space before":
            return trained(
                models.BPE(), bpe(alphabet=BYTES), split=pre_tokenizers.ByteLevel(add_prefix_space=True)
            )
        case "bytes, as Llama 3":
            split = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(GPT4), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
            return trained(models.BPE(), bpe(alphabet=BYTES), split=split)
        case "bytes of the whole text":
            return trained(
                models.BPE(),
                bpe(alphabet=BYTES),
                split=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            )
        case "words of SentencePiece, as T5":
            trainer = trainers.UnigramTrainer(
                vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
            )
            return trained(models.Unigram(), trainer, split=pre_tokenizers.Metaspace())
        case "SentencePiece without words, as Llama 2":
            split = pre_tokenizers.Metaspace()
            return trained(models.BPE(unk_token="<unk>"), bpe(), split=split, then=SENTENCEPIECE)
        case "SentencePiece whose tokens join words":
            return trained(models.BPE(unk_token="<unk>"), bpe(), normalizer=SENTENCEPIECE)
        case "word pieces, as BERT":
            trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
            return trained(
                models.WordPiece(unk_token="<unk>"),
                trainer,
                normalizer=normalizers.BertNormalizer(),
                split=pre_tokenizers.BertPreTokenizer(),
            )
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "is_cut"),
    [
        ("bytes, as GPT-2", True),
        ("bytes with a space before", True),
        ("bytes, as Llama 3", True),
        ("bytes of the whole text", False),
        ("words of SentencePiece, as T5", True),
        ("SentencePiece without words, as Llama 2", True),
        ("SentencePiece whose tokens join words", False),
        ("word pieces, as BERT", True),
    ],
)
def test_pieces_have_the_ids_of_the_whole_document(kind, is_cut):
    tokenizer = of_kind(kind)
    for seed in range(3):
        text = prose(6000, 100 + seed)
        parts = list(ids_in_pieces(text, tokenizer, piece=300))
        assert [*chain(*parts)] == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (len(parts) > 20) == is_cut


@pytest.mark.parametrize(
    "text", ["日本語の文章です。" * 2000, "x" * 20_000, "1 2 3 4 " * 3000, "\n" * 20_000]
)
def test_document_without_a_place_to_cut_is_tokenised_as_a_whole(text):
    tokenizer = of_kind("bytes, as GPT-2")
    parts = list(ids_in_pieces(text, tokenizer, piece=300))
    assert parts == [tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_windows_of_short_and_long_documents_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(long_documents, "PIECE", 500)
    tokenizer = TOKENIZERS["llama3"]
    texts = [prose(length, length) for length in (5, 4000, 0, 50, 900)]
    for text, windows in zip(texts, document_windows(texts, tokenizer, 32), strict=True):
        ids, found = tokenizer(text, add_special_tokens=False)["input_ids"], list(windows)
        assert [window.token[0] for window in found] == [tokenizer.bos_token_id] * len(found)
        assert [id for window in found for id in window.token[1:].tolist()] == ids
        assert all(len(window.token) == 32 for window in found[:-1])


def test_only_what_is_asked_for_of_a_long_document_is_tokenised(monkeypatch):
    monkeypatch.setattr(long_documents, "PIECE", 500)
    read_characters = []
    monkeypatch.setattr(
        long_documents,
        "_ids",
        lambda text, tokenizer: read_characters.append(len(text)) or [1] * len(text),
    )
    monkeypatch.setattr(long_documents, "_cut", lambda text, near, tokenizer: (near, near))
    [windows] = document_windows(["ab" * 50_000], TOKENIZERS["llama3"], 32)
    next(windows)
    assert read_characters == [500]


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


# Sources that change.


def corpus_run(checkout: Checkout) -> tuple[str, Path, list[str]]:
    """Harvest a data set of 3 training shards from a folder of 2 files: the config, a file and its texts."""
    folder = checkout.folder / "corpus"
    folder.mkdir()
    texts = [prose(50, seed) for seed in range(120)]
    write_jsonl(folder / "a.jsonl", texts[:60])
    write_jsonl(folder / "b.jsonl", texts[60:])
    changes = {"files": ["corpus"], "tokens": 6000, "validation_tokens": 400}
    config = checkout.changed(
        TINY,
        {"tokens.shard": 2000, "tokens.unusable": 0.2}
        | {f"datasets.readme.{key}": value for key, value in changes.items()},
    )
    result = checkout.snakemake("activations", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return config, folder / "a.jsonl", texts


def place(checkout: Checkout, shard: int) -> dict:
    path = checkout.folder / f"results/tokens/tiny-chat/readme.train/{shard:04d}.next.json"
    return json.loads(path.read_text())


def jobs(printed: str) -> list[str]:
    """Give the jobs of a run that tokenise and harvest, by what they make."""
    return sorted(re.findall(r"(?:Tokenising|Harvesting) .*", printed))


def test_changed_text_makes_new_caches_of_its_shard_only(checkout):
    config, path, texts = corpus_run(checkout)
    fraction = 0.2  # of the tiny config
    first, last = place(checkout, 0)["text"], place(checkout, 1)["text"]
    training = [
        number for number in range(first, last) if in_split(document_id(texts[number]), "train", fraction)
    ]
    assert last < 60 and len(training) > 3
    number = training[1]
    texts[number] = next(
        text
        for end in ("!", "?", ";", ":", "*", "+")
        if in_split(document_id(text := texts[number] + end), "train", fraction)
    )
    before = {number: place(checkout, number) for number in range(3)}
    write_jsonl(path, texts[:60])
    printed = checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout
    expected = {"tokenise": 4, "check_texts": 2, "harvest_activations": 8, "activations": 1}
    assert planned(printed) == expected
    assert "4 token shards are tokenised again" in printed and "fewer jobs may run" in printed
    result = checkout.snakemake("activations", "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert jobs(result.stdout) == [
        "Harvesting tiny-base: readme, train shard 0001",
        "Harvesting tiny-chat: readme, train shard 0001",
        "Tokenising readme, train shard 0000",
        "Tokenising readme, train shard 0001",
        "Tokenising readme, train shard 0002",
        "Tokenising readme, validation shard 0000",
    ]
    assert place(checkout, 0) == before[0]
    assert place(checkout, 1) == before[1] | {"offset": before[1]["offset"] + 1}
    assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)
    audit = checkout.crossdiff("audit", "--all", "--configfile", config)
    assert audit.returncode == 0 and "verified" in audit.stdout, audit.stdout
    # A record that can't be used comes into the file, and is taken out again. No token changes.
    for line, skipped in (("no JSON\n", 1), ("", 0)):
        path.write_text(line + path.read_text().removeprefix("no JSON\n"))
        result = checkout.snakemake("activations", "--configfile", config)
        assert result.returncode == 0, result.stdout
        assert len(jobs(result.stdout)) == 4 and not re.search("^Harvesting", result.stdout, re.M)
        read = [
            read_counts(place) for place in (checkout.folder / "results/tokens").rglob("readme.*/*.next.json")
        ]
        assert sum(counts["skipped"].get("a line that is not JSON", 0) for counts in read) == skipped
        assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)

    # A file that comes into the folder is read, too.
    write_jsonl(path.with_name("0.jsonl"), ["first of all"])
    printed = checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout
    assert planned(printed)["tokenise"] == 4
    path.with_name("0.jsonl").unlink()
    (path.parent / "notes.md").write_text("not read")
    assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)
    # A folder that holds nothing to read is named before any job.
    for name in ("a", "b"):
        (path.parent / f"{name}.jsonl").unlink()
    result = checkout.snakemake("activations", "--dry-run", "--configfile", config)
    assert result.returncode == 1
    assert "config: datasets.readme.files: found corpus, a folder without files" in result.stdout
