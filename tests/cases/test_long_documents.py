"""Long documents are tokenised in pieces, and have the ids of the whole."""

from itertools import chain

import pytest
from helpers_texts import TOKENIZERS, prose
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crossdiff.texts import documents as long_documents
from crossdiff.texts.documents import document_windows, ids_in_pieces


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
