"""From texts to the two splits and their token shards."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_texts import TOKENIZERS, assistant, documents, user, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.config import TextSource
from crossdiff.errors import UserError
from crossdiff.texts.chats import HEADER, NO_ROLE, chat_sequence
from crossdiff.texts.documents import document_windows
from crossdiff.texts.shards import read_shard
from crossdiff.texts.sources import read
from crossdiff.texts.splits import document_id, in_split
from crossdiff.texts.tokenising import sequences, tokenise_shard
from crossdiff.texts.unusable import Tally

# The split.


@given(text=st.text() | st.lists(st.builds(user, st.text()), min_size=1), fraction=st.floats(0.01, 0.99))
def test_every_text_is_in_exactly_one_split(text, fraction):
    document = document_id(text)
    assert 0 <= document < 2**63
    assert in_split(document, "train", fraction) != in_split(document, "validation", fraction)


def test_document_ids_are_stable():
    """They are in the files and decide the split: changing them changes every result."""
    assert document_id("a") == 0xCA978112CA1BBDCA >> 1 == int(hashlib.sha256(b"a").hexdigest()[:16], 16) >> 1
    assert document_id([user("ä")]) == document_id('[{"role": "user", "content": "ä"}]')


def test_validation_gets_its_share():
    documents = [document_id(f"text {number}") for number in range(4000)]
    assert np.mean([in_split(document, "validation", 0.2) for document in documents]) == pytest.approx(
        0.2, abs=0.03
    )


def test_larger_validation_fraction_only_moves_documents_out_of_training():
    documents = [document_id(f"text {number}") for number in range(1000)]
    small, large = ({d for d in documents if in_split(d, "validation", fraction)} for fraction in (0.1, 0.3))
    assert small < large


# Shards.

CONTEXT = 32


@pytest.fixture
def pages(tmp_path) -> TextSource:
    """Documents of up to some three windows; a few are empty or of one token."""
    random = np.random.default_rng(0)
    words = ["the", "user", "said", "us", "and", "a", "yes", "zwölf", "🙂", "."]
    texts = [" ".join(random.choice(words, size=length)) for length in random.integers(0, 80, size=120)]
    return documents(write_jsonl(tmp_path / "pages.jsonl", texts), validation_fraction=0.25)


TOKENIZER = TOKENIZERS["llama3"]


def place_of(path: Path) -> Path:
    """Give the file that says where the shard after ``path`` begins."""
    return path.with_suffix(".next.json")


def shard(source, path, tokens=300, split="train", **more):
    """Write a shard and read it back."""
    tokenise_shard(source, "pages", split, TOKENIZER, CONTEXT, tokens, path, place_of(path), **more)
    return read_shard(path)


def stream(source, split="train"):
    return list(sequences(source, "pages", split, TOKENIZER, CONTEXT))


def rows(sequence_list):
    return [token for _, _, sequence in sequence_list for token in sequence.token]


def test_no_document_stands_in_both_splits_and_none_is_lost(pages):
    ids = {split: {document for _, document, _ in stream(pages, split)} for split in ("train", "validation")}
    assert not ids["train"] & ids["validation"]
    windows = {
        document_id(found.text)
        for found in read(pages, "pages")
        if any(len(w.token) > 1 for w in document_windows([found.text], TOKENIZER, CONTEXT)[0])
    }
    assert ids["train"] | ids["validation"] == windows and ids["validation"]


def test_shard_holds_the_first_tokens_of_the_stream(pages, tmp_path):
    found = shard(pages, tmp_path / "0.parquet")
    assert found.token.tolist() == rows(stream(pages))[:300]
    assert all(column.flags.writeable for column in found)  # else torch warns


def test_columns_tell_document_position_role_and_template_part(pages, tmp_path):
    found = shard(pages, tmp_path / "0.parquet")
    starts = found.sequence_starts()
    lengths = np.diff([*starts, len(found.token)])
    taken = stream(pages)[: len(starts)]
    assert lengths[:-1].tolist() == [len(sequence.token) for _, _, sequence in taken[:-1]]
    assert found.position.tolist() == [position for length in lengths for position in range(length)]
    assert found.document[starts].tolist() == [document for _, document, _ in taken]
    assert (found.role == NO_ROLE).all() and np.flatnonzero(
        found.template == HEADER
    ).tolist() == starts.tolist()
    assert [column.dtype.name for column in found] == ["int32", "int64", "int32", "int8", "int8"]


def test_shards_of_sequences_that_fill_them_equal_one_large_shard(tmp_path):
    """Each text is exactly one window, so nothing is cut."""
    same_length = documents(
        write_jsonl(tmp_path / "a.jsonl", ["zyxw" * 6 + f"{number:03d}" for number in range(60)])
    )
    assert {len(sequence.token) for _, _, sequence in stream(same_length)} == {28}
    large = shard(same_length, tmp_path / "large.parquet", tokens=2 * 280)
    first = shard(same_length, tmp_path / "0.parquet", tokens=280)
    second = shard(same_length, tmp_path / "1.parquet", tokens=280, previous=place_of(tmp_path / "0.parquet"))
    for whole, one, two in zip(large, first, second, strict=True):
        assert np.array_equal(whole, np.concatenate([one, two]))


def test_cut_text_ends_its_shard_and_the_next_one_starts_with_the_next_text(pages, tmp_path):
    first = shard(pages, tmp_path / "0.parquet")
    second = shard(pages, tmp_path / "1.parquet", previous=place_of(tmp_path / "0.parquet"))
    whole = stream(pages)
    cut = whole[len(first.sequence_starts()) - 1]
    after = [entry for entry in whole if entry[0] > cut[0]]
    assert first.position[-1] + 1 < len(cut[2].token)  # the last sequence is cut indeed
    assert second.token.tolist() == rows(after)[:300]
    assert not set(first.document) & set(second.document)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_chain_of_shards_holds_no_document_twice(pages, tmp_path, split):
    previous, seen = None, set()
    for number in range(3):
        found = shard(pages, tmp_path / f"{number}.parquet", tokens=150, split=split, previous=previous)
        assert len(found.token) == 150 and found.position[0] == 0
        assert not seen & set(found.document.tolist())
        seen |= set(found.document.tolist())
        previous = place_of(tmp_path / f"{number}.parquet")


def test_shard_is_the_same_to_the_byte_each_time(pages, tmp_path):
    for name in ("one", "two"):
        shard(pages, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_text_added_at_the_end_leaves_the_old_shards_as_they_were(pages, tmp_path):
    shard(pages, tmp_path / "before")
    with Path(pages.files[0]).open("a") as file:
        file.write('{"text": "and more"}\n')
    shard(pages, tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_chat_is_one_sequence_cut_at_the_context(tmp_path):
    (tmp_path / "talk.jsonl").write_text(
        json.dumps({"messages": [user("us " * 40), assistant("yes")]}) + "\n"
    )
    source = TextSource(
        kind="chats", format="messages", files=[str(tmp_path / "talk.jsonl")], validation_fraction=1e-9
    )
    [(number, document, sequence)] = stream(source)
    whole = chat_sequence([user("us " * 40), assistant("yes")], TOKENIZER, "chat")
    assert len(whole.token) > CONTEXT
    assert number == 0 and document == document_id([user("us " * 40), assistant("yes")])
    for column, full in zip(sequence, whole, strict=True):
        assert np.array_equal(column, full[:CONTEXT])


def test_documents_are_taken_in_windows_or_cut_and_counted(pages):
    given, counted = {}, {}
    for long in (None, "windows", "cut"):
        tally = Tally("pages")
        source = pages.model_copy(update={"long": long})
        found = [*sequences(source, "pages", "train", TOKENIZER, CONTEXT, tally=tally)]
        given[long] = [(number, sequence.token.tolist()) for number, _, sequence in found]
        counted[long] = tally.notes
    assert given[None] == given["windows"]
    first = dict(reversed(given["windows"]))  # of each document
    assert given["cut"] == [*sorted(first.items())]
    longer = {number for number, _ in given["windows"]}
    several = sum(len([1 for other, _ in given["windows"] if other == number]) > 1 for number in longer)
    assert counted["windows"] == {}
    assert counted["cut"]["documents cut, longer than tokens.context"] >= several > 10


def test_empty_texts_and_single_tokens_are_left_out(tmp_path):
    source = documents(write_jsonl(tmp_path / "a.jsonl", ["", "us", "us said"]), validation_fraction=1e-9)
    assert [
        number for number, _, _ in sequences(source, "pages", "train", TOKENIZERS["chatml"], CONTEXT)
    ] == [2]


@pytest.mark.parametrize(("split", "key"), [("train", "tokens"), ("validation", "validation_tokens")])
def test_data_set_shorter_than_its_budget_is_refused_with_the_shortage(pages, tmp_path, split, key):
    total = len(rows(stream(pages, split)))
    with pytest.raises(UserError) as caught:
        shard(pages, tmp_path / "0.parquet", tokens=total + 1000, split=split)
    assert str(caught.value) == (
        f"datasets.pages: its {split} texts end 1,000 tokens short of this shard's {total + 1000:,}; "
        f"lower {key} or add text"
    )
    assert not (tmp_path / "0.parquet").exists()


def test_budget_that_takes_the_whole_data_set_is_allowed(pages, tmp_path):
    total = len(rows(stream(pages)))
    assert len(shard(pages, tmp_path / "0.parquet", tokens=total).token) == total


@pytest.mark.parametrize("content", [[], ["", ""]], ids=["no records", "empty texts"])
def test_empty_data_set_is_refused(tmp_path, content):
    source = documents(write_jsonl(tmp_path / "a.jsonl", content))
    with pytest.raises(UserError, match=r"^datasets\.pages: .*\(no text found\)"):
        shard(source, tmp_path / "0.parquet")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"text": ["not", "a", "shard"]}), path)


def no_parquet(path: Path) -> None:
    path.write_text("not Parquet at all")


@pytest.mark.parametrize("damage", [truncated, foreign, no_parquet, Path.unlink])
def test_damaged_shard_is_refused_by_name(pages, tmp_path, damage):
    path = tmp_path / "0.parquet"
    shard(pages, path)
    damage(path)
    with pytest.raises(UserError) as caught:
        read_shard(path)
    assert str(caught.value).startswith(f"{path}: not a whole token shard (") and "\n" not in str(
        caught.value
    )


@pytest.mark.parametrize("damage", [truncated, foreign, no_parquet, Path.unlink])
def test_damaged_shard_is_made_again(pages, tmp_path, damage):
    path = tmp_path / "0.parquet"
    shard(pages, path)
    whole = path.read_bytes()
    damage(path)
    shard(pages, path)
    assert path.read_bytes() == whole


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:9])


def of_another_kind(path: Path) -> None:
    path.write_text('{"tokens": 3}')


@pytest.mark.parametrize("damage", [cut, of_another_kind, Path.unlink])
def test_damaged_place_is_refused_as_the_one_to_go_on_from(pages, tmp_path, damage):
    place = place_of(tmp_path / "0.parquet")
    shard(pages, tmp_path / "0.parquet")
    damage(place)
    with pytest.raises(UserError) as caught:
        shard(pages, tmp_path / "1.parquet", previous=place)
    assert str(caught.value).startswith(f"{place}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "1.parquet").exists()
