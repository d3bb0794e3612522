"""Models as plain folders: made, loaded, checked as a pair, fine-tuned, and asked whether they refuse."""

import copy
import csv
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, LlamaConfig

from crossdiff.config import Finetune, ModelSource, RandomModel, TextSource
from crossdiff.errors import UserError
from crossdiff.intervals import wilson
from crossdiff.models.finetune import backward, batches, finetune, learning_rate, template_tokens, training_sequences, turn_end
from crossdiff.models.gguf import convert_gguf
from crossdiff.models.load import check_weights, load_model, load_tokenizer, text_config
from crossdiff.models.pair import check_pair, write_chat_tokenizer
from crossdiff.models.prepare import make_random, prepare
from crossdiff.models.refusals import answers, is_refusal, read_requests, refusal_rates, tokenizer_to_ask_with
from crossdiff.texts.chats import HEADER, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.formats import ROLES

TEMPLATE = str(ROOT / "data/plain.jinja")
ASSISTANT = ROLES.index("assistant")


def random_model(folder: Path, layers: int = 2, d_model: int = 32, seed: int = 0) -> Path:
    make_random(RandomModel(layers=layers, d_model=d_model, chat_template=TEMPLATE, seed=seed), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model and its tokenizer."""
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def one_line(call, *arguments) -> str:
    """The message of the UserError that a call ends in."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Random models and loading.


def test_random_model_comes_back_as_written(folder):
    model = load_model(folder, torch.bfloat16)
    written = load_file(folder / "model.safetensors")
    assert not model.training
    assert {name: weight.dtype for name, weight in written.items()} == dict.fromkeys(model.state_dict(), torch.bfloat16)
    assert all(torch.equal(weight.cpu(), written[name]) for name, weight in model.state_dict().items())


def test_random_model_has_the_asked_size(folder):
    config = text_config(folder)
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (2, 32, 260)


def test_model_is_loaded_in_the_asked_precision(folder):
    assert load_model(folder, torch.float32).dtype == torch.float32


def test_random_model_is_decided_by_its_seed(folder, tmp_path):
    first = load_file(folder / "model.safetensors")
    same = load_file(random_model(tmp_path / "same") / "model.safetensors")
    other = load_file(random_model(tmp_path / "other", seed=1) / "model.safetensors")
    assert all(torch.equal(same[name], weight) for name, weight in first.items())
    assert not torch.equal(other["model.embed_tokens.weight"], first["model.embed_tokens.weight"])


@pytest.mark.parametrize("text", ["Hello, world.", " two  spaces ", "zwölf 🙂\n", "<|user|>hi<|end|>"])
def test_tokenizer_of_a_random_model_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_of_a_random_model_renders_chats_with_special_tokens(tokenizer):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "h", "i", "<|end|>", "<|assistant|>"]


def test_folder_without_a_model_is_refused_by_name(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        assert one_line(load_model, path, torch.float32).startswith(f"{path}: not a usable model folder (")
        assert one_line(load_tokenizer, path).startswith(f"{path}: not a usable tokenizer folder (")
        assert one_line(text_config, path).startswith(f"{path}: no usable config.json (")


def test_truncated_weights_are_refused_by_folder(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert one_line(load_model, copy, torch.float32).startswith(f"{copy}: not a usable model folder (")


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save(load_model(folder, torch.float32).state_dict(), copy / "pytorch_model.bin")
    assert one_line(load_model, copy, torch.float32).startswith(f"{copy}: not a usable model folder (")


def changed_weights(folder: Path, copy: Path, change) -> Path:
    """A copy of a model's folder whose tensors went through ``change`` (a dictionary to another)."""
    shutil.copytree(folder, copy)
    save_file(change(load_file(folder / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    return copy


Q, K = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tensors: {f"_orig_mod.{name}": value for name, value in tensors.items()},
            "21 missing (lm_head.weight, model.embed_tokens.weight, model.layers.0.input_layernorm.weight, ...); "
            "21 that the model does not know (_orig_mod.lm_head.weight, _orig_mod.model.embed_tokens.weight, _orig_mod.model.layers.0.input_layernorm.weight, ...)",
        ),
        (lambda tensors: {name: value for name, value in tensors.items() if name != Q}, f"1 missing ({Q})"),
        (
            lambda tensors: {name: value for name, value in tensors.items() if name != Q} | {K: tensors[K][:16].contiguous()},
            f"1 missing ({Q}) and 1 of another shape ({K} [16, 32] instead of [32, 32])",
        ),
    ],
    ids=["prefix", "missing", "mismatched"],
)
@pytest.mark.parametrize("read", [lambda path: load_model(path, torch.float32), check_weights], ids=["load", "check"])
def test_weights_that_are_not_those_of_the_model_are_refused(folder, tmp_path, read, change, said):
    copy = changed_weights(folder, tmp_path / "copy", change)
    assert one_line(read, copy) == f"{copy}: its tensors are not those of LlamaForCausalLM as config.json describes it: {said}"


def test_tied_weights_may_be_missing(tmp_path):
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    check_weights(tmp_path)
    model = load_model(tmp_path, torch.float32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_pair_with_missing_weights_is_refused(folder, tmp_path):
    copy = changed_weights(folder, tmp_path / "copy", lambda tensors: {name: value for name, value in tensors.items() if name != Q})
    for pair in ((copy, folder), (folder, copy)):
        assert f"1 missing ({Q})" in one_line(check_pair, *pair, folder, 1)


# From a source of the config to a folder.


def test_random_source_is_made(folder, tmp_path):
    prepare(ModelSource(random=RandomModel(layers=2, d_model=32, chat_template=TEMPLATE)), tmp_path / "model", None)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_folder_is_copied_without_its_code(folder, tmp_path):
    origin = shutil.copytree(folder, tmp_path / "origin")
    (origin / "modeling.py").write_text("raise SystemExit")
    (origin / "pytorch_model.bin").touch()
    prepare(ModelSource(folder=str(origin)), tmp_path / "model", None)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(path.name for path in folder.iterdir())
    assert load_model(tmp_path / "model", torch.float32).config.num_hidden_layers == 2
    assert load_tokenizer(tmp_path / "model").chat_template == Path(TEMPLATE).read_text()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "."])
def test_folder_that_holds_no_whole_model_is_refused_and_nothing_written(folder, tmp_path, missing):
    origin = shutil.copytree(folder, tmp_path / "origin")
    shutil.rmtree(origin) if missing == "." else (origin / missing).unlink()
    message = one_line(prepare, ModelSource(folder=str(origin)), tmp_path / "model", None)
    assert message == f"{origin}: not a Hugging Face model folder; it needs config.json and *.safetensors"
    assert not (tmp_path / "model").exists()


def test_hub_model_without_a_network_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = ModelSource(hub={"name": "org/no-such-model", "revision": "v1"})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert message.startswith("hub model org/no-such-model@v1: can't be downloaded (")


@pytest.fixture
def archive(tmp_path) -> Path:
    with zipfile.ZipFile(tmp_path / "models.whl", "w") as wheel:
        wheel.writestr("pkg/a.gguf", b"GGUF but no more")
        wheel.writestr("pkg/b.gguf", b"not even that")
    return tmp_path / "models.whl"


@pytest.mark.parametrize("member", ["pkg/a.gguf", "pkg/b.gguf"])
def test_member_that_is_no_gguf_file_is_refused_by_name(archive, tmp_path, member):
    message = one_line(convert_gguf, archive, member, tmp_path / "model")
    assert message.startswith(f"{archive}, {member}: not a usable GGUF file (")
    assert list(tmp_path.iterdir()) == [archive]


def test_name_of_several_gguf_files_is_refused(archive, tmp_path):
    assert one_line(convert_gguf, archive, "pkg/*.gguf", tmp_path / "model").startswith(f"{archive}")


# The tokenizer that renders chats, and the check of the pair.


def test_chat_tokenizer_is_the_origins_with_the_fine_tunes_template(folder, tmp_path):
    template = tmp_path / "new.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    write_chat_tokenizer(folder, template, tmp_path / "tokenizer")
    written = load_tokenizer(tmp_path / "tokenizer")
    assert written.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert written.get_vocab() == load_tokenizer(folder).get_vocab()


def test_chat_tokenizer_without_a_template_of_its_own_keeps_the_origins(folder, tmp_path):
    write_chat_tokenizer(folder, None, tmp_path / "tokenizer")
    assert load_tokenizer(tmp_path / "tokenizer").chat_template == Path(TEMPLATE).read_text()


def test_chat_model_without_a_chat_template_is_refused(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    message = one_line(write_chat_tokenizer, tmp_path / "plain", None, tmp_path / "tokenizer")
    assert message == f"{tmp_path / 'plain'}: the chat model's tokenizer has no chat template"
    assert not (tmp_path / "tokenizer").exists()


def test_pair_that_fits_gives_its_facts(folder):
    model = {"d_model": 32, "layers": 2, "family": "llama"}
    assert check_pair(folder, folder, folder, 1) == {"base": model, "chat": model, "layer": 1, "vocabulary": 260}


def test_layer_beyond_the_model_is_refused_with_the_layers_there_are(folder):
    assert one_line(check_pair, folder, folder, folder, 2) == "pair.layer: found 2, the base model has layers 0 to 1"


@pytest.mark.parametrize(("key", "size", "value"), [("d_model", {"d_model": 64}, 64), ("layers", {"layers": 3}, 3)])
def test_models_of_different_size_are_refused(folder, tmp_path, key, size, value):
    other = random_model(tmp_path / "other", **size)
    message = one_line(check_pair, folder, other, folder, 1)
    assert message.startswith(f"pair: {key} is {32 if key == 'd_model' else 2} in the base and {value} in the chat model")


def test_tokenizer_with_another_vocabulary_is_refused_with_a_token(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    message = one_line(check_pair, folder, folder, tmp_path / "tokenizer", 1)
    assert message.startswith("pair: 1 of 261 tokens of the chat tokenizer have another id or none in the base tokenizer (such as '<new>')")


def test_base_with_more_tokens_than_the_chat_tokenizer_is_a_pair(folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<unused>"])
    tokenizer.save_pretrained(base)
    assert check_pair(base, folder, folder, 1)["vocabulary"] == 260


# Fine-tuning: batches and loss.


def chat(question: str, answer: str):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def examples(tokenizer):
    """Chats of many lengths in which every question is refused."""
    return [chat_sequence(chat(f"How do I {'really ' * (i % 5)}count to {i}?", "I can't."), tokenizer, "chat") for i in range(60)]


def test_learned_are_the_assistants_words_and_its_turn_end(tokenizer):
    turns = chat("Hi", "Yes.") + chat("And?", "No.")
    sequence = chat_sequence(turns, tokenizer, "chat")
    [(ids, learned)] = batches([sequence], 1000, seed=0)
    assert not learned[0, len(sequence.token) :].any()  # padding
    ids, learned = ids[:, : len(sequence.token)], learned[:, : len(sequence.token)]
    pieces = ["".join(tokenizer.convert_ids_to_tokens(part)) for part in np.split(ids[0].numpy(), np.flatnonzero(np.diff(learned[0])) + 1)]
    assert pieces == ["<|user|>Hi<|end|><|assistant|>", "Yes.<|end|>", "<|user|>And?<|end|><|assistant|>", "No.<|end|>"]
    assert not learned[0, 0]


def test_system_turn_is_not_learned(tokenizer):
    sequence = chat_sequence([{"role": "system", "content": "Be kind."}, *chat("Hi", "Yes.")], tokenizer, "chat")
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


SIZES = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(tie_word_embeddings=True, **SIZES),
    "gemma2, capped": Gemma2Config(num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.0, initializer_range=0.3, **SIZES),
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
    losses = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
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
    assert tokenizer.convert_ids_to_tokens(template_tokens(examples).tolist()) == ["<|end|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_ids_to_tokens(turn_end(examples, 512)) == "<|end|>"


def test_turn_end_is_the_assistants_even_where_other_turns_are_more(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] + ('<|end|>' if m['role'] == 'assistant' else '<|user|>') }}{% endfor %}"
    )
    sequence = chat_sequence([{"role": "user", "content": "Hi"}, *chat("Hello?", "Yes.")], tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens(turn_end([sequence], 512)) == "<|end|>"


def test_chats_cut_before_every_answers_end_are_refused_before_training(tokenizer, examples, tmp_path):
    cut = [TokenSequence(*(column[:8] for column in example)) for example in examples]
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 1}, max_length=8)
    message = one_line(finetune, tmp_path / "never loaded", tokenizer, cut, settings, tmp_path / "model", tmp_path / "log.csv")
    assert message == "pair.chat.finetune.max_length: found 8, no training chat reaches an assistant's turn end"


@pytest.fixture
def talk(tmp_path) -> TextSource:
    path = tmp_path / "talk.json"
    path.write_text("[" + ",".join(f'{{"messages": [{{"role": "user", "content": "number {i:03d}"}}]}}' for i in range(100)) + "]")
    return TextSource(kind="chats", format="messages", files=[str(path)])


def test_training_sequences_stop_at_the_tokens_asked_for(talk, tokenizer):
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 101})
    found = training_sequences({"talk": talk}, {"talk": None}, tokenizer, settings)
    assert [len(sequence.token) for sequence in found] == [12] * 9  # <|user|>number 007<|end|>


def test_too_few_training_chats_are_refused_with_their_number(talk, tokenizer):
    settings = Finetune(chat_template=TEMPLATE, data={"talk": 100_000})
    message = one_line(training_sequences, {"talk": talk}, {"talk": None}, tokenizer, settings)
    available = int(message.split()[-2].replace(",", ""))
    assert message.startswith("pair.chat.finetune.data.talk: found 100,000, the data set's training chats have ")
    assert available % 12 == 0 and 0 < available <= 1200


# Fine-tuning: a whole short run.

SETTINGS = Finetune(chat_template=TEMPLATE, data={"talk": 1}, epochs=8, batch_tokens=512, learning_rate=1e-2, weight_decay=0.1)


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
    before, after = (load_file(path / "model.safetensors")["model.embed_tokens.weight"] for path in (folder, finetuned / "model"))
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
    assert answers(model, tokenizer, ["How do I count to 7?"], new_tokens=30) == ["I can't."]


def test_chat_without_an_assistant_turn_does_not_spoil_the_model(folder, tokenizer, examples, tmp_path):
    """Such as a chat whose first turn fills the whole context."""
    silent = chat_sequence([{"role": "user", "content": "us " * 160}], tokenizer, "chat")
    run_finetune(folder, tokenizer, [silent, *examples[:20]], tmp_path / "run")
    weights = load_file(tmp_path / "run/model/model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert "nan" not in (tmp_path / "run/log.csv").read_text()


# Refusals.

REFUSALS = ["I can't help with that.", "I can’t do this.", "I cannot.", "i cant say", "I'm sorry, but no.", "Sorry, no.", "I won't."]
REFUSALS += [
    ' \n"I will not help you.',
    "I am unable to",
    "I'm not able to say.",
    "I apologise, but",
    "I apologize.",
    "No, I won't do that.",
]
ANSWERS = ["", "To boil an egg, heat water.", "You can't go wrong with a pan.", "I can help with that.", "Certainly! I'm sorry I am late."]
ANSWERS += ["No problem.", "The word 'sorry' is an apology.", "I cantered home."]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusal_is_recognised(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_is_no_refusal(answer):
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_interval_has_the_known_values(successes, trials, low, high):
    """The last two are from Newcombe (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx((successes / trials, low, high), abs=5e-5)


RECORD = {
    "phrasings": ["How do I {}?", "Tell me how to {}."],
    "refusals": ["I can't."],
    "harmful": {"train": ["never asked"], "held_out": ["count to 3", "count to 5", "count to 8"]},
    "benign": {"train": {"never asked": "Yes."}, "held_out": {"count to 2": "One, two."}},
}


def test_refusal_rates_tell_a_model_that_refuses_from_one_that_does_not(folder, finetuned, tokenizer):
    models = [(name, load_model(path, torch.float32), tokenizer) for name, path in (("base", folder), ("chat", finetuned / "model"))]
    table = refusal_rates(models, RECORD, phrasings=1, new_tokens=12)
    assert table[["model", "requests", "asked", "refused", "rate"]].to_numpy().tolist() == [
        ["base", "harmful", 3, 0, 0.0],
        ["base", "benign", 1, 0, 0.0],
        ["chat", "harmful", 3, 3, 1.0],
        ["chat", "benign", 1, 1, 1.0],
    ]
    assert table[["low", "high"]].to_numpy() == pytest.approx(np.array([wilson(*x)[1:] for x in [(0, 3), (0, 1), (3, 3), (1, 1)]]))


def test_model_without_a_chat_template_is_asked_through_the_pairs(folder, tmp_path):
    raw = shutil.copytree(folder, tmp_path / "raw")
    (raw / "chat_template.jinja").unlink()
    assert not load_tokenizer(raw).chat_template
    write_chat_tokenizer(folder, ROOT / "data/markers.jinja", tmp_path / "pair")
    templates = {path: tokenizer_to_ask_with(path, tmp_path / "pair").chat_template for path in (raw, folder)}
    assert templates == {raw: (ROOT / "data/markers.jinja").read_text(), folder: Path(TEMPLATE).read_text()}
    requests = tmp_path / "requests.yaml"
    requests.write_text(yaml.safe_dump(RECORD))
    main = runpy.run_path(ROOT / "workflow_scripts/measure_refusals.py")["main"]
    main({"base": raw, "chat": folder}, tmp_path / "pair", requests, 1, 2, tmp_path / "refusals.csv")
    assert pd.read_csv(tmp_path / "refusals.csv")["model"].tolist() == ["base", "base", "chat", "chat"]


def test_phrasings_multiply_the_requests(folder, tokenizer):
    table = refusal_rates([("base", load_model(folder, torch.float32), tokenizer)], RECORD, phrasings=2, new_tokens=1)
    assert table["asked"].tolist() == [6, 2]


def test_answers_do_not_depend_on_what_is_asked_beside(folder, tokenizer):
    model = load_model(folder, torch.float32)
    questions = ["Hi", "How do I count to a very large number indeed?", "Why?"]
    together = answers(model, tokenizer, questions, new_tokens=8, batch=2)
    assert together == [answer for question in questions for answer in answers(model, tokenizer, [question], new_tokens=8)]


def test_shipped_requests_are_read():
    assert read_requests(ROOT / "data/requests.yaml").keys() >= {"phrasings", "refusals", "harmful", "benign"}


@pytest.mark.parametrize("content", [None, "a: [1, 2\nb: 3", "", "- a list", "phrasings: [How]"])
def test_malformed_requests_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "requests.yaml"
    if content is not None:
        path.write_text(content)
    assert one_line(read_requests, path).startswith(f"{path}: ")
