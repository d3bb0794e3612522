"""Models as plain folders: made, loaded and checked as a pair."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from helpers_folders import TEMPLATE, random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from crossdiff.config import ModelSource, RandomModel
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.check import check_model
from crossdiff.models.gguf import convert_member
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.pair import check_pair
from crossdiff.models.prepare import prepare
from crossdiff.models.tokenizers import load_tokenizer, text_config, write_chat_tokenizer
from crossdiff.models.weight_files import ALLOWED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model and its tokenizer."""
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


# Random models and loading.


def test_random_model_comes_back_as_written(folder):
    model = load_model(folder, torch.bfloat16)
    written = load_file(folder / "model.safetensors")
    assert not model.training
    assert {name: weight.dtype for name, weight in written.items()} == dict.fromkeys(
        model.state_dict(), torch.bfloat16
    )
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
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "h", "i", "<|end|>", "<|assistant|>"]


def test_folder_without_a_model_is_refused_by_name(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        assert one_line(load_model, path, torch.float32) == f"found {path}, allowed: {ALLOWED}"
        for load in (load_tokenizer, load_chat_tokenizer):
            assert one_line(load, path).startswith(f"{path}: not a usable tokenizer folder (")
        assert one_line(text_config, path).startswith(f"{path / 'config.json'}: found no such file")


def test_truncated_weights_are_refused_by_folder(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert one_line(load_model, copy, torch.float32).startswith(f"{weights}: 1,000 bytes that are no whole")


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save(load_model(folder, torch.float32).state_dict(), copy / "pytorch_model.bin")
    assert one_line(load_model, copy, torch.float32).startswith(f"{copy}: it has pickled weights only")


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
            lambda tensors: {f"other.{name}": value for name, value in tensors.items()},
            "21 missing (lm_head.weight, model.embed_tokens.weight, "
            "model.layers.0.input_layernorm.weight, ...) and "
            "21 that the model does not know (other.lm_head.weight, other.model.embed_tokens.weight, "
            "other.model.layers.0.input_layernorm.weight, ...)",
        ),
        (lambda tensors: {name: value for name, value in tensors.items() if name != Q}, f"1 missing ({Q})"),
        (
            lambda tensors: (
                {name: value for name, value in tensors.items() if name != Q}
                | {K: tensors[K][:16].contiguous()}
            ),
            f"1 missing ({Q}) and 1 of another shape ({K} [16, 32] instead of [32, 32])",
        ),
    ],
    ids=["prefix", "missing", "mismatched"],
)
@pytest.mark.parametrize(
    "read", [lambda path: load_model(path, torch.float32), check_weights], ids=["load", "check"]
)
def test_weights_that_are_not_those_of_the_model_are_refused(folder, tmp_path, read, change, said):
    copy = changed_weights(folder, tmp_path / "copy", change)
    assert (
        one_line(read, copy)
        == f"{copy}: its tensors are not those of LlamaForCausalLM as config.json describes it: {said}"
    )


def test_tied_weights_may_be_missing(tmp_path):
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    check_weights(tmp_path)
    model = load_model(tmp_path, torch.float32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_model_with_missing_weights_fails_its_check(folder, tmp_path):
    copy = changed_weights(
        folder,
        tmp_path / "copy",
        lambda tensors: {name: value for name, value in tensors.items() if name != Q},
    )
    assert f"1 missing ({Q})" in one_line(check_model, copy, folder, 1)


# From a source of the config to a folder.


def test_random_source_is_made(folder, tmp_path):
    prepare(
        ModelSource(random=RandomModel(layers=2, d_model=32, chat_template=TEMPLATE)),
        tmp_path / "model",
        None,
    )
    assert (tmp_path / "model/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_folder_is_copied_without_its_code(folder, tmp_path):
    origin = shutil.copytree(folder, tmp_path / "origin")
    (origin / "modeling.py").write_text("raise SystemExit")
    (origin / "pytorch_model.bin").touch()
    prepare(ModelSource(folder=str(origin)), tmp_path / "model", None)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        path.name for path in folder.iterdir()
    )
    assert load_model(tmp_path / "model", torch.float32).config.num_hidden_layers == 2
    assert load_tokenizer(tmp_path / "model").chat_template == Path(TEMPLATE).read_text()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "."])
def test_folder_that_holds_no_whole_model_is_refused_and_nothing_written(folder, tmp_path, missing):
    origin = shutil.copytree(folder, tmp_path / "origin")
    shutil.rmtree(origin) if missing == "." else (origin / missing).unlink()
    message = one_line(prepare, ModelSource(folder=str(origin)), tmp_path / "model", None)
    assert str(origin) in message and ("config.json" in message or "no weights" in message)
    assert not (tmp_path / "model").exists()


def test_hub_model_without_a_network_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = ModelSource(hub={"name": "org/no-such-model", "revision": "v1"})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert message.startswith("hub model org/no-such-model@v1: not in the hub's cache, and HF_HUB_OFFLINE is")


@pytest.fixture
def archive(tmp_path) -> Path:
    with zipfile.ZipFile(tmp_path / "models.whl", "w") as wheel:
        wheel.writestr("pkg/a.gguf", b"GGUF but no more")
        wheel.writestr("pkg/b.gguf", b"not even that")
    return tmp_path / "models.whl"


@pytest.mark.parametrize("member", ["pkg/a.gguf", "pkg/b.gguf"])
def test_member_that_is_no_gguf_file_is_refused_by_name(archive, tmp_path, member):
    message = one_line(convert_member, archive, member, tmp_path / "model")
    assert message.startswith(f"{archive}, {member}: not a usable GGUF file (")
    assert list(tmp_path.iterdir()) == [archive]


def test_name_of_several_gguf_files_is_refused(archive, tmp_path):
    assert one_line(convert_member, archive, "pkg/*.gguf", tmp_path / "model").startswith(f"{archive}")


# The tokenizer that renders chats, and the check of the pair.


def test_chat_tokenizer_is_the_origins_with_the_fine_tunes_template(folder, tmp_path):
    template = tmp_path / "new.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    write_chat_tokenizer(folder, template, tmp_path / "tokenizer")
    written = load_tokenizer(tmp_path / "tokenizer")
    assert written.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert written.get_vocab() == load_tokenizer(folder).get_vocab()


def test_chat_tokenizer_read_without_its_class_is_the_same(folder, tmp_path):
    write_chat_tokenizer(folder, None, tmp_path / "tokenizer")
    fast, full = load_chat_tokenizer(tmp_path / "tokenizer"), load_tokenizer(tmp_path / "tokenizer")
    chat = [
        {"role": "user", "content": "How do I read a map?"},
        {"role": "assistant", "content": "North is up."},
    ]
    assert fast.apply_chat_template(chat, tokenize=False) == full.apply_chat_template(chat, tokenize=False)
    text = full.apply_chat_template(chat, tokenize=False)
    for special in (False, True):
        encoded = [
            tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
            for tokenizer in (fast, full)
        ]
        assert encoded[0].data == encoded[1].data
    assert fast.all_special_ids == full.all_special_ids
    assert (fast.bos_token_id, fast.eos_token_id, fast.pad_token_id) == (
        full.bos_token_id,
        full.eos_token_id,
        full.pad_token_id,
    )
    ids = fast(text)["input_ids"]
    assert fast.decode(ids) == full.decode(ids)


def test_chat_tokenizer_without_a_template_of_its_own_keeps_the_origins(folder, tmp_path):
    write_chat_tokenizer(folder, None, tmp_path / "tokenizer")
    assert load_tokenizer(tmp_path / "tokenizer").chat_template == Path(TEMPLATE).read_text()


def test_chat_model_without_a_chat_template_is_refused(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    message = one_line(write_chat_tokenizer, tmp_path / "plain", None, tmp_path / "tokenizer")
    assert message == (
        f"{tmp_path / 'plain'}: the chat model's tokenizer has no chat template; "
        "name a Jinja file in tokens.chat_template"
    )
    assert not (tmp_path / "tokenizer").exists()


TOKENS = {"vocabulary": 260, "rows": 260, "rowless": {}, "unknown": {}, "moved": {}}
FACTS = {"d_model": 32, "layers": 2, "family": "llama", "few_bits": None, "between_turns": "<|end|><|user|>"}


def test_model_that_fits_gives_its_facts(folder):
    assert check_model(folder, folder, 1) == FACTS | TOKENS


def test_layer_beyond_the_model_is_refused_with_the_layers_there_are(folder):
    assert (
        one_line(check_model, folder, folder, 2)
        == f"layer: found 2, the model {folder.name} has layers 0 to 1"
    )


def test_pair_tells_which_of_its_models_has_few_bits():
    few = {"few_bits": "8 bits (bitsandbytes)"}
    found = check_pair(FACTS | TOKENS, FACTS | TOKENS | few)
    assert (found["base"], found["chat"]) == (FACTS, FACTS | few)


def test_pair_that_fits_gives_the_facts_of_both():
    chat = FACTS | {"family": "other"}
    found = check_pair(FACTS | TOKENS | {"unknown": {"7": "<new>"}}, chat | TOKENS, {7: 5})
    assert found == {
        "base": FACTS,
        "chat": chat,
        "vocabulary": 260,
        "unknown_to_base": {"7": "<new>"},
        "replaced_for_base": {"7": 5},
    }


@pytest.mark.parametrize(("key", "value"), [("d_model", 64), ("layers", 3)])
def test_models_of_different_size_are_refused(key, value):
    message = one_line(check_pair, FACTS, FACTS | {key: value})
    assert (
        message
        == f"pair: {key} is {FACTS[key]} in the base and {value} in the chat model; they must be equal"
    )


def test_tokenizer_with_another_vocabulary_is_refused_with_a_token(folder, tmp_path):
    tokens = load_tokenizer(folder).get_vocab()
    turned = {token: (number + 1) % len(tokens) for token, number in tokens.items()}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(turned, [])))
    other.save_pretrained(tmp_path / "tokenizer")
    message = one_line(check_model, folder, tmp_path / "tokenizer", 1)
    assert message.startswith(
        "pair: 260 of 260 tokens of the chat tokenizer have another id in the tokenizer of base (such as "
    )


def test_base_with_more_tokens_than_the_chat_tokenizer_is_a_pair(folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<unused>"])
    tokenizer.save_pretrained(base)
    assert check_model(base, folder, 1)["vocabulary"] == 260
