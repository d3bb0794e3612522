"""Fine-tuning: what is learned, in which batches, and whether the model refuses afterwards."""

import copy
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers_folders import ASSISTANT, TEMPLATE, random_model
from helpers_texts import one_line
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, LlamaConfig

from crossdiff.config import Finetune, TextSource
from crossdiff.intervals import wilson
from crossdiff.models.finetune import (
    backward,
    batches,
    finetune,
    learning_rate,
    template_tokens,
    training_sequences,
    turn_end,
)
from crossdiff.models.load import load_model
from crossdiff.models.refusals import answers, read_requests, refusal_rates
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.texts.chats import HEADER, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model and its tokenizer."""
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


# Fine-tuning: batches and loss.


def chat(question: str, answer: str):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def examples(tokenizer):
    """Chats of many lengths in which every question is refused."""
    return [
        chat_sequence(chat(f"How do I {'really ' * (i % 5)}count to {i}?", "I can't."), tokenizer, "chat")
        for i in range(60)
    ]


def test_learned_are_the_assistants_words_and_its_turn_end(tokenizer):
    turns = chat("Hi", "Yes.") + chat("And?", "No.")
    sequence = chat_sequence(turns, tokenizer, "chat")
    [(ids, learned)] = batches([sequence], 1000, seed=0)
    assert not learned[0, len(sequence.token) :].any()  # padding
    ids, learned = ids[:, : len(sequence.token)], learned[:, : len(sequence.token)]
    pieces = [
        "".join(tokenizer.convert_ids_to_tokens(part))
        for part in np.split(ids[0].numpy(), np.flatnonzero(np.diff(learned[0])) + 1)
    ]
    assert pieces == [
        "<|user|>Hi<|end|><|assistant|>",
        "Yes.<|end|>",
        "<|user|>And?<|end|><|assistant|>",
        "No.<|end|>",
    ]
    assert not learned[0, 0]


def test_system_turn_is_not_learned(tokenizer):
    sequence = chat_sequence(
        [{"role": "system", "content": "Be kind."}, *chat("Hi", "Yes.")], tokenizer, "chat"
    )
    [(ids, learned)] = batches([sequence], 1000, seed=0)
    assert tokenizer.decode(ids[0][learned[0]]) == "Yes.<|end|>"


def test_padding_is_not_learned(examples):
    found = batches(examples, 500, seed=0)
    learned_of_examples = sum(((s.role == ASSISTANT) & (s.template != HEADER)).sum() for s in examples)
    assert sum(ids.numel() for ids, _ in found) > sum(len(s.token) for s in examples)  # there is padding
    assert sum(learned.sum() for _, learned in found) == learned_of_examples


@pytest.mark.parametrize("batch_tokens", [100, 500, 10_000])
def test_batches_keep_to_their_tokens_and_hold_every_sequence_once(examples, batch_tokens):
    found = batches(examples, batch_tokens, seed=0)
    assert all(ids.numel() <= batch_tokens for ids, _ in found)
    without_padding = [[token for token in row.tolist() if token] for ids, _ in found for row in ids]
    assert sorted(without_padding) == sorted([token for token in s.token.tolist() if token] for s in examples)


def test_sequence_longer_than_a_batch_is_a_batch_of_its_own(examples):
    found = batches(examples, 10, seed=0)
    assert [ids.shape[0] for ids, _ in found] == [1] * len(examples)


def test_order_of_batches_is_decided_by_the_seed(examples):
    first, same, other = (batches(examples, 200, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, same, strict=True))
    assert [ids.tolist() for ids, _ in first] != [ids.tolist() for ids, _ in other]
    assert sorted(ids.tolist() for ids, _ in first) == sorted(ids.tolist() for ids, _ in other)


SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(tie_word_embeddings=True, **SIZES),
    "gemma2, capped": Gemma2Config(
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.0, initializer_range=0.3, **SIZES
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
def test_loss_and_gradients_are_those_of_the_full_models_logits(config, examples, monkeypatch):
    monkeypatch.setattr("crossdiff.models.finetune.LOGIT_ROWS", 10)  # several parts, the last one shorter
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, learned = batches(examples[:7], 10_000, seed=0)[0]
    assert learned.sum() > 20 and learned.sum() % 10
    trained = [weight for name, weight in model.base_model.named_parameters() if "layers" in name]
    losses = torch.nn.functional.cross_entropy(
        model(input_ids=ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none"
    )
    wanted = losses[learned[:, 1:]].mean()
    gradients = torch.autograd.grad(wanted, trained)
    assert_close(backward(model, ids, learned, torch.tensor([3, 5])), wanted)
    assert_close([weight.grad for weight in trained], list(gradients), atol=1e-6, rtol=1e-4)


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 1}, learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 101, settings) for step in range(101)]
    assert_close(rates[:10], [(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


def test_template_tokens_and_turn_end_are_read_off_the_chats(examples, tokenizer):
    assert tokenizer.convert_ids_to_tokens(template_tokens(examples).tolist()) == [
        "<|end|>",
        "<|user|>",
        "<|assistant|>",
    ]
    assert tokenizer.convert_ids_to_tokens(turn_end(examples, 512)) == "<|end|>"


def test_turn_end_is_the_assistants_even_where_other_turns_are_more(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    end = "'<|end|>' if m['role'] == 'assistant' else '<|user|>'"
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m['content'] + ({end}) }}}}{{% endfor %}}"
    sequence = chat_sequence([{"role": "user", "content": "Hi"}, *chat("Hello?", "Yes.")], tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens(turn_end([sequence], 512)) == "<|end|>"


def test_chats_cut_before_every_answers_end_are_refused_before_training(tokenizer, examples, tmp_path):
    cut = [TokenSequence(*(column[:8] for column in example)) for example in examples]
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 1}, max_length=8)
    message = one_line(
        finetune,
        tmp_path / "never loaded",
        tokenizer,
        cut,
        settings,
        tmp_path / "model",
        tmp_path / "log.csv",
    )
    assert message == "finetune.max_length: found 8, no training chat reaches an assistant's turn end"


@pytest.fixture
def talk(tmp_path) -> TextSource:
    path = tmp_path / "talk.json"
    path.write_text(
        "["
        + ",".join(f'{{"messages": [{{"role": "user", "content": "number {i:03d}"}}]}}' for i in range(100))
        + "]"
    )
    return TextSource(kind="chats", format="messages", files=[str(path)])


def test_training_sequences_stop_at_the_tokens_asked_for(talk, tokenizer):
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 101})
    found = training_sequences({"talk": talk}, {"talk": None}, tokenizer, settings)
    assert [len(sequence.token) for sequence in found] == [12] * 9  # <|user|>number 007<|end|>


def test_too_few_training_chats_are_refused_with_their_number(talk, tokenizer):
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 100_000})
    message = one_line(training_sequences, {"talk": talk}, {"talk": None}, tokenizer, settings)
    available = int(message.split()[-2].replace(",", ""))
    assert message.startswith("finetune.data.talk: found 100,000, the data set's training chats have ")
    assert available % 12 == 0 and 0 < available <= 1200


# Fine-tuning: a whole short run.

SETTINGS = Finetune(
    chat_template=TEMPLATE, data={"talk": 1}, epochs=8, batch_tokens=512, learning_rate=1e-2, weight_decay=0.1
)


def run_finetune(base: Path, tokenizer, examples, folder: Path) -> Path:
    folder.mkdir()
    finetune(base, tokenizer, examples, SETTINGS, folder / "model", folder / "log.csv")
    return folder


@pytest.fixture(scope="module")
def finetuned(folder, tokenizer, examples, tmp_path_factory) -> Path:
    return run_finetune(folder, tokenizer, examples, tmp_path_factory.mktemp("finetuned") / "run")


def test_finetune_lowers_the_loss(finetuned):
    with (finetuned / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:2])


def test_finetune_writes_bfloat16_safetensors_and_the_tokenizer(finetuned):
    with safe_open(finetuned / "model/model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}
    assert load_tokenizer(finetuned / "model").chat_template == Path(TEMPLATE).read_text()


def test_finetune_changes_the_embeddings_of_template_tokens_only(folder, finetuned, examples):
    before, after = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"]
        for path in (folder, finetuned / "model")
    )
    changed = (before != after).any(dim=1).nonzero().squeeze(1)
    assert changed.tolist() == template_tokens(examples).tolist()


def test_finetune_changes_every_block(folder, finetuned):
    before, after = (load_file(path / "model.safetensors") for path in (folder, finetuned / "model"))
    blocks = [name for name in before if "proj" in name]
    assert len(blocks) == 2 * 7
    assert not any(torch.equal(before[name], after[name]) for name in blocks)


def test_finetune_is_the_same_each_time(folder, tokenizer, examples, finetuned, tmp_path):
    again = run_finetune(folder, tokenizer, examples, tmp_path / "again")
    for file in ("model/model.safetensors", "log.csv"):
        assert (again / file).read_bytes() == (finetuned / file).read_bytes()


def test_finetuned_model_ends_its_turn(finetuned, tokenizer):
    model = load_model(finetuned / "model", torch.float32)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    [answer] = answers(model, tokenizer, ["How do I count to 7?"], new_tokens=30)
    assert answer == ("I can't.", False, False)


def test_chat_without_an_assistant_turn_does_not_spoil_the_model(folder, tokenizer, examples, tmp_path):
    """A chat whose first turn fills the whole context has no assistant turn."""
    silent = chat_sequence([{"role": "user", "content": "us " * 160}], tokenizer, "chat")
    run_finetune(folder, tokenizer, [silent, *examples[:20]], tmp_path / "run")
    weights = load_file(tmp_path / "run/model/model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert "nan" not in (tmp_path / "run/log.csv").read_text()


# Refusals.

RECORD = {
    "phrasings": ["How do I {}?", "Tell me how to {}."],
    "refusals": ["I can't."],
    "harmful": {"train": ["never asked"], "held_out": ["count to 3", "count to 5", "count to 8"]},
    "benign": {"train": {"never asked": "Yes."}, "held_out": {"count to 2": "One, two."}},
}


def test_refusal_rates_tell_a_model_that_refuses_from_one_that_does_not(folder, finetuned, tokenizer):
    models = [
        (name, load_model(path, torch.float32), tokenizer)
        for name, path in (("base", folder), ("chat", finetuned / "model"))
    ]
    table = refusal_rates(models, RECORD, phrasings=1, new_tokens=12)
    assert table[["model", "requests", "asked", "refused", "rate"]].to_numpy().tolist() == [
        ["base", "harmful", 3, 0, 0.0],
        ["base", "benign", 1, 0, 0.0],
        ["chat", "harmful", 3, 3, 1.0],
        ["chat", "benign", 1, 1, 1.0],
    ]
    assert table[["low", "high"]].to_numpy() == pytest.approx(
        np.array([wilson(*x)[1:] for x in [(0, 3), (0, 1), (3, 3), (1, 1)]])
    )


def test_phrasings_multiply_the_requests(folder, tokenizer):
    table = refusal_rates(
        [("base", load_model(folder, torch.float32), tokenizer)], RECORD, phrasings=2, new_tokens=1
    )
    assert table["asked"].tolist() == [6, 2]


def test_answers_do_not_depend_on_what_is_asked_beside(folder, tokenizer):
    model = load_model(folder, torch.float32)
    questions = ["Hi", "How do I count to a very large number indeed?", "Why?"]
    together = answers(model, tokenizer, questions, new_tokens=8, batch=2)
    assert together == [
        answer for question in questions for answer in answers(model, tokenizer, [question], new_tokens=8)
    ]


def test_shipped_requests_are_read():
    assert read_requests(ROOT / "data/requests.yaml").keys() >= {"phrasings", "refusals", "harmful", "benign"}


@pytest.mark.parametrize("content", [None, "a: [1, 2\nb: 3", "", "- a list", "phrasings: [How]"])
def test_malformed_requests_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "requests.yaml"
    if content is not None:
        path.write_text(content)
    assert one_line(read_requests, path).startswith(f"{path}: ")
