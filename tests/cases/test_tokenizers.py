"""Tokenizers of base and chat model that differ a little: added, renamed and replaced tokens."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from helpers_folders import random_model
from helpers_report import BETAS, EXAMPLES, inputs, page_of
from helpers_texts import TOKENIZERS, one_line
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from crossdiff.config import load
from crossdiff.models.check import check_model
from crossdiff.models.pair import check_pair
from crossdiff.models.refusals import tokenizer_for_base
from crossdiff.models.tokenizers import load_tokenizer

LAYER, VOCABULARY = 1, 50


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model with 260 tokens, and as many rows of its embedding."""
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def roomy(base) -> Path:
    """The same model with four rows more, as many families have them."""
    folder = shutil.copytree(base, base.parent / "roomy")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(264, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def tokenizer_of(folder: Path, written: Path, change: Callable[[PreTrainedTokenizerFast], None]) -> Path:
    """A model's tokenizer after a change of it, in a folder of its own."""
    tokenizer = load_tokenizer(folder)
    change(tokenizer)
    tokenizer.save_pretrained(written)
    return written


def renamed(folder: Path, written: Path, names: dict[str, str]) -> Path:
    """A model's tokenizer with other names for some tokens."""
    shutil.copytree(folder, written, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    for path in written.glob("*.json"):
        text = path.read_text()
        for old, new in names.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        path.write_text(text)
    return written


def add_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def add_marker(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)


# What the check of a pair allows.


def pair(base: Path, chat: Path, tokenizer: Path, replacements: dict[int, int] | None = None) -> dict:
    """The facts of a pair, as the rules find them."""
    found = [json.loads(json.dumps(check_model(folder, tokenizer, 1))) for folder in (base, chat)]
    return check_pair(*found, replacements)


def test_one_vocabulary_has_no_unknown_tokens(base):
    facts = pair(base, base, base)
    assert (facts["unknown_to_base"], facts["replaced_for_base"]) == ({}, {})


@pytest.mark.parametrize("resized", [False, True])
def test_padding_token_needs_no_row(base, roomy, resized, tmp_path):
    tokenizer = tokenizer_of(base, tmp_path / "tokenizer", add_pad)
    assert pair(base, roomy if resized else base, tokenizer)["unknown_to_base"] == {"260": "[PAD]"}


@pytest.mark.parametrize("change", [add_pad, add_marker])
def test_added_token_with_a_row_of_the_base_is_allowed_and_named(roomy, tmp_path, change):
    tokenizer = tokenizer_of(roomy, tmp_path / "tokenizer", change)
    facts = pair(roomy, roomy, tokenizer)
    assert list(facts["unknown_to_base"]) == ["260"] and facts["vocabulary"] == 261


def test_added_token_without_a_row_of_the_base_needs_a_replacement(base, roomy, tmp_path):
    tokenizer = tokenizer_of(base, tmp_path / "tokenizer", add_marker)
    assert one_line(pair, base, roomy, tokenizer) == (
        "pair.base: 1 of 261 tokens of the chat tokenizer (such as '<|im_start|>', id 260) have no row in "
        "its embedding, which has 260; set tokens.base_replacements, such as {260: 0}"
    )
    facts = pair(base, roomy, tokenizer, {260: 3})
    assert facts["unknown_to_base"] == {"260": "<|im_start|>"} and facts["replaced_for_base"] == {"260": 3}


def test_chat_model_must_have_rows_for_its_own_tokens(base, roomy, tmp_path):
    tokenizer = tokenizer_of(base, tmp_path / "tokenizer", add_marker)
    assert one_line(pair, roomy, base, tokenizer, {260: 3}).startswith("pair.chat: 1 of 261 tokens")


def test_renamed_token_is_allowed_and_named(base, tmp_path):
    tokenizer = renamed(base, tmp_path / "tokenizer", {"<|system|>": "<|im_start|>"})
    own = renamed(base, tmp_path / "chat", {"<|system|>": "<|im_start|>"})
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, own)
    assert pair(base, own, tokenizer)["unknown_to_base"] == {"3": "<|im_start|>"}


def test_token_that_moved_is_refused_unless_it_is_replaced(base, tmp_path):
    names = renamed(base, tmp_path / "names", {"<|system|>": "<tmp>", "<|user|>": "<|system|>"})
    chat = renamed(names, tmp_path / "chat", {"<tmp>": "<|user|>"})
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, chat)
    assert one_line(pair, base, chat, chat) == (
        "pair.base: 2 of 260 tokens of the chat tokenizer (such as '<|system|>', id 1) have another id in "
        "its own tokenizer; set tokens.base_replacements, such as {1: 0}"
    )
    assert pair(base, chat, chat, {1: 2, 3: 2})["unknown_to_base"] == {}


def test_vocabulary_of_another_family_is_refused(base, tmp_path):
    TOKENIZERS["chatml"].save_pretrained(tmp_path / "tokenizer")
    message = one_line(check_model, base, tmp_path / "tokenizer", 1)
    assert "only pairs with one vocabulary are supported" in message


def test_replacement_by_no_token_is_refused(base):
    assert one_line(pair, base, base, base, {5: 260}) == (
        "tokens.base_replacements.5: found 260, allowed: 0 to 259"
    )


@pytest.fixture
def bare(base, tmp_path) -> Path:
    """A base model without tokenizer files."""
    ignored = shutil.ignore_patterns("tokenizer*", "chat_template*", "special*")
    return shutil.copytree(base, tmp_path / "bare", ignore=ignored)


def test_base_without_a_tokenizer_works_with_the_chats(base, bare):
    assert sorted(path.name for path in bare.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    facts = pair(bare, base, base)
    assert (facts["unknown_to_base"], facts["vocabulary"]) == (None, 260)
    pairs = load_tokenizer(base)
    assert tokenizer_for_base(bare, pairs, date(2024, 7, 26)) is pairs
    tokenizer = tokenizer_of(base, bare.parent / "tokenizer", add_marker)
    assert "pair.base: 1 of 261 tokens" in one_line(pair, bare, base, tokenizer)


# The report.


@pytest.mark.parametrize(
    ("facts", "counts", "said"),
    [
        ({}, {}, []),
        (
            {"unknown_to_base": {"260": "<a>", "261": "<b>", "262": "<c>", "263": "<d>"}},
            {"unknown_to_base": 1234},
            [
                "The base never saw 1,234 of these tokens in training",
                "lacks 4 of the chat tokenizer's (<a>, <b>, <c>, ...)",
            ],
        ),
        (
            {"replaced_for_base": {"7": 3}},
            {"replaced_for_base": 55},
            ["In place of 55 of these tokens the base read other tokens (tokens.base_replacements)"],
        ),
        (
            {"unknown_to_base": None},
            {"unknown_to_base": None},
            ["The base came without a tokenizer, so which of these tokens it never saw in training is not"],
        ),
    ],
)
def test_report_counts_tokens_that_the_base_never_saw(tmp_path, facts, counts, said):
    given = inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES})
    for path, values in ((given.facts, facts), (given.summary, counts)):
        Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | values))
    text = "".join(page_of(given).text.split())  # tags around tokens become blanks
    for part in said:
        assert "".join(part.split()) in text
    if not said:
        assert "neversaw" not in text and "Inplaceof" not in text


# The paper's other pairs.


@pytest.mark.parametrize(
    ("name", "layer", "coefficient", "k"), [("llama3.2-1b", 8, 0.036, 100), ("llama3.1-8b", 16, 0.021, 200)]
)
def test_llama_configs_have_the_papers_settings(name, layer, coefficient, k):
    config = load(yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()))
    assert config.pair.layer == layer
    assert config.tokens.base_replacements == {128006: 1432, 128007: 827, 128009: 827}
    assert config.activations.skip_first == 25
    assert config.crosscoders["l1"].l1_coefficient == coefficient
    assert config.crosscoders["batchtopk"].k == k
    gemma = load(yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text()))
    assert config.datasets == gemma.datasets
    for loss, own in (("batchtopk", {"k": k}), ("l1", {"l1_coefficient": coefficient})):
        assert config.crosscoders[loss] == gemma.crosscoders[loss].model_copy(update=own)
    values = deepcopy(config.pair.model_dump())
    assert values["base"]["hub"]["name"] + "-Instruct" == values["chat"]["hub"]["name"]
