"""Tokenizers of base and chat model that differ a little: added, renamed and replaced tokens."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from helpers_activations import random_crosscoder, write_tokens
from helpers_config import SMALL, changed
from helpers_folders import random_model
from helpers_models import D_MODEL, FAMILIES, tiny_model
from helpers_report import BETAS, EXAMPLES, inputs, page_of
from helpers_texts import one_line
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from crossdiff.activations.cache import read_rows
from crossdiff.activations.harvest import harvest_shard
from crossdiff.activations.pairs import PairedShard, Summary, read_summary, summarise, write_summary
from crossdiff.config import Activations, load
from crossdiff.interventions.patching import Variant, answer_kl
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.check import check_model
from crossdiff.models.forward import head_logits, resume_from_layer, run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.refusals import tokenizer_to_ask_with
from crossdiff.models.replacements import as_read, check_ids, with_replacements
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.texts.shards import Shard
from crossdiff.workflow.run import Run

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


# What a model's check allows.


def test_one_vocabulary_has_no_unknown_tokens(base):
    facts = check_model(base, base, 1)
    assert (facts["unknown"], facts["replaced"]) == ({}, {})


def test_padding_token_needs_no_row(base, tmp_path):
    chat = tokenizer_of(base, tmp_path / "tokenizer", add_pad)
    assert check_model(base, chat, 1)["unknown"] == {260: "[PAD]"}


@pytest.mark.parametrize("change", [add_pad, add_marker])
def test_added_token_with_a_row_of_the_base_is_allowed_and_named(roomy, tmp_path, change):
    chat = tokenizer_of(roomy, tmp_path / "tokenizer", change)
    facts = check_model(roomy, chat, 1)
    assert list(facts["unknown"]) == [260] and facts["vocabulary"] == 261


def test_added_token_without_a_row_of_the_base_needs_a_replacement(base, tmp_path):
    chat = tokenizer_of(base, tmp_path / "tokenizer", add_marker)
    assert one_line(check_model, base, chat, 1) == (
        "pair: 1 of 261 tokens of the chat tokenizer (such as '<|im_start|>', id 260) have no row in the "
        "embedding of base, which has 260; for the base model, set tokens.base_replacements, such as {260: 0}"
    )
    facts = check_model(base, chat, 1, {260: 3})
    assert (facts["unknown"], facts["replaced"]) == ({260: "<|im_start|>"}, {260: 3})


def test_renamed_token_is_allowed_and_named(base, tmp_path):
    chat = renamed(base, tmp_path / "tokenizer", {"<|system|>": "<|im_start|>"})
    assert check_model(base, chat, 1)["unknown"] == {3: "<|im_start|>"}


def test_token_that_moved_is_refused_unless_it_is_replaced(base, tmp_path):
    chat = renamed(base, tmp_path / "tokenizer", {"<|system|>": "<tmp>", "<|user|>": "<|system|>"})
    chat = renamed(chat, tmp_path / "moved", {"<tmp>": "<|user|>"})
    message = one_line(check_model, base, chat, 1)
    assert message.startswith("pair: 2 of 260 tokens of the chat tokenizer have another id in the tokenizer")
    assert check_model(base, chat, 1, {1: 3, 3: 1})["unknown"] == {}


def test_vocabulary_of_another_family_is_refused(base, tmp_path):
    from helpers_texts import TOKENIZERS

    TOKENIZERS["chatml"].save_pretrained(tmp_path / "tokenizer")
    assert "of the chat tokenizer" in one_line(check_model, base, tmp_path / "tokenizer", 1)


@pytest.mark.parametrize(
    ("replacements", "said"),
    [
        ({999: 1}, "tokens.base_replacements: found 999, the chat tokenizer has ids 0 to 259"),
        ({5: 260}, "tokens.base_replacements.5: found 260, allowed: 0 to 259"),
    ],
)
def test_replacement_of_no_token_or_by_none_is_refused(base, replacements, said):
    assert one_line(check_model, base, base, 1, replacements) == said


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
    facts = check_model(bare, base, 1)
    assert (facts["unknown"], facts["vocabulary"]) == (None, 260)
    assert tokenizer_to_ask_with(bare, base).get_vocab() == load_tokenizer(base).get_vocab()
    chat = tokenizer_of(base, bare.parent / "tokenizer", add_marker)
    assert "have no row in the embedding of bare" in one_line(check_model, bare, chat, 1)


# A model that reads other tokens in place of some.


@pytest.fixture(params=FAMILIES)
def models(request):
    """A model that reads 7 and 9 as other tokens, and one whose rows of the embedding were copied instead."""
    replaced, copied = (tiny_model(request.param, VOCABULARY, 0) for _ in range(2))
    with torch.no_grad():
        table = copied.get_input_embeddings().weight
        head = copied.get_output_embeddings().weight
        if head is table:  # what is read is replaced, not what is said
            copied.lm_head.weight = torch.nn.Parameter(head.clone())
        table[7], table[9] = table[30].clone(), table[31].clone()
    return with_replacements(replaced, {9: 31, 7: 30}), copied


def ids(rows: int = 3, width: int = 12, seed: int = 0) -> torch.Tensor:
    found = torch.randint(VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))
    found[:, 2:8] = torch.tensor([7, 9, 8, 30, 9, 7])
    return found


def test_replaced_tokens_are_read_as_if_their_rows_were_the_others(models):
    replaced, copied = models
    plain = tiny_model("llama" if replaced.config.model_type == "llama" else "gemma2", VOCABULARY, 0)
    asked = ids()
    for layer in (0, LAYER):
        assert_close(run_to_layer(replaced, asked, layer), run_to_layer(copied, asked, layer))
        assert not torch.allclose(run_to_layer(replaced, asked, layer), run_to_layer(plain, asked, layer))
    with torch.no_grad():
        assert_close(replaced(asked).logits, copied(input_ids=asked).logits)
        assert_close(replaced(input_ids=asked).logits, copied(asked).logits)
    hidden = run_to_layer(copied, asked, LAYER)
    last = resume_from_layer(replaced, hidden, asked, LAYER)
    assert_close(last, resume_from_layer(copied, hidden, asked, LAYER))
    assert_close(head_logits(replaced, last[0]), head_logits(copied, last[0]))


def test_answers_are_those_of_the_model_with_copied_rows(models):
    prompts = [row.numpy() for row in ids()]
    one, other = (greedy(model, prompts, 8) for model in models)
    assert [row.tolist() for row in one] == [row.tolist() for row in other]


def test_probability_of_a_replaced_token_is_that_of_the_token_read(models):
    """The base may not have the chat's tokens among those that it can say."""
    replaced, _ = models
    prompts, answers = [ids(1)[0].numpy()] * 2, [np.array([5, 7, 12]), np.array([5, 30, 12])]
    one, other = answer_nats(replaced, prompts, answers)
    assert one == pytest.approx(other)


def test_token_beyond_the_embedding_can_be_read_and_said_as_another():
    model = with_replacements(tiny_model("llama", VOCABULARY, 0), {60: 30})
    beyond, within = np.array([5, 60, 12]), np.array([5, 30, 12])
    assert_close(
        run_to_layer(model, torch.tensor([[5, 60, 12]]), LAYER),
        run_to_layer(model, torch.tensor([[5, 30, 12]]), LAYER),
    )
    one, other = answer_nats(model, [beyond, within], [beyond, within])
    assert one == pytest.approx(other) and np.isfinite(one)
    assert as_read(model, beyond).tolist() == [5, 30, 12]
    check_ids(model, beyond)
    assert one_line(check_ids, model, np.array([5, 61])) == (
        "1 of 2 tokens (such as id 61) have no row in the model's embedding, which has 50; "
        "for the base model, set tokens.base_replacements, such as {61: 0}"
    )


def test_model_without_replacements_stays_as_it_is():
    model = tiny_model("llama", VOCABULARY, 0)
    assert with_replacements(model, {}) is model and not model.base_model._forward_pre_hooks
    assert as_read(model, np.array([7])).tolist() == [7]


# The jobs.


def shard_of(tokens: torch.Tensor) -> Shard:
    rows, width = tokens.shape
    zeros = np.zeros(tokens.numel(), np.int8)
    return Shard(
        tokens.flatten().numpy().astype(np.int32),
        np.repeat(np.arange(rows), width),
        np.tile(np.arange(width), rows).astype(np.int32),
        zeros,
        zeros,
    )


def test_cache_of_a_base_with_replacements_belongs_to_the_chats_tokens(models, tmp_path):
    shard, other = shard_of(ids()), shard_of(ids(seed=1))
    replaced, copied = models
    for name, model in (("base", replaced), ("chat", copied)):
        harvest_shard(model, shard, LAYER, 64, tmp_path / f"{name}.h5")
    base, chat = (read_rows(tmp_path / f"{name}.h5", 0, 36) for name in ("base", "chat"))
    assert torch.equal(base, chat)
    caches = (tmp_path / "base.h5", tmp_path / "chat.h5")
    paired = PairedShard(write_tokens(tmp_path / "tokens.parquet", shard), *caches)
    assert (paired.tokens.token == shard.token).all()
    message = one_line(PairedShard, write_tokens(tmp_path / "other.parquet", other), *caches)
    assert "belong to other tokens" in message
    summary = summarise([paired], Activations(), {8, 9, 49}, {9, 7})
    assert summary.unknown_to_base == np.isin(shard.token, [8, 9, 49]).sum()
    assert summary.replaced_for_base == np.isin(shard.token, [7, 9]).sum() >= 12
    assert summarise([paired], Activations(), None).unknown_to_base is None
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


def test_text_with_a_token_beyond_the_embedding_is_refused_in_harvest_and_patching(tmp_path):
    model, shard = tiny_model("llama", VOCABULARY, 0), shard_of(ids())
    shard.token[5] = VOCABULARY
    assert "(such as id 50) have no row" in one_line(
        harvest_shard, model, shard, LAYER, 64, tmp_path / "x.h5"
    )
    assert not (tmp_path / "x.h5").exists()
    summary = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
    crosscoder = random_crosscoder(D_MODEL, 24, 0)
    wanted = shard.position > 0
    arguments = (model, model, crosscoder, summary, shard, wanted, [Variant("none")], 64)
    assert "(such as id 50) have no row" in one_line(answer_kl, *arguments)


def test_patching_starts_from_what_the_base_reads(models):
    replaced, copied = models
    chat = tiny_model("llama" if replaced.config.model_type == "llama" else "gemma2", VOCABULARY, 1)
    crosscoder = random_crosscoder(D_MODEL, 24, 0)
    crosscoder.layer = LAYER
    shard = shard_of(ids())
    summary = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
    variants = [Variant("none"), Variant("all"), Variant("error")]
    one, other = (
        answer_kl(base, chat, crosscoder, summary, shard, shard.position > 0, variants, 64).kl
        for base in (replaced, copied)
    )
    assert_close(one, other, equal_nan=True)
    plain = answer_kl(
        tiny_model(chat.config.model_type, VOCABULARY, 0),
        chat,
        crosscoder,
        summary,
        shard,
        shard.position > 0,
        variants,
        64,
    ).kl
    assert not np.allclose(one[1:12], plain[1:12])


def test_only_the_bases_jobs_get_replacements():
    run = Run(changed("tokens", SMALL["tokens"] | {"base_replacements": {9: 1, 5: 2}}))
    assert run.replacements("small-base") == [[5, 2], [9, 1]]
    assert run.replacements("small-chat") == []
    assert Run(SMALL).replacements("small-base") == []


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
            ["In place of 55 of them the base read other tokens (tokens.base_replacements)"],
        ),
        (
            {"unknown_to_base": None},
            {"unknown_to_base": None},
            [
                "The base came without a tokenizer, so which of these tokens it never saw in training is not known."
            ],
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


def test_model_of_bfloat16_reads_replacements_too(base):
    model = with_replacements(load_model(base, torch.bfloat16), {259: 4})
    one, other = (run_to_layer(model, torch.tensor([[5, number, 6]]), 1) for number in (259, 4))
    assert torch.equal(one, other)
