"""Models that come as an adapter, from a subfolder of the hub, as a GGUF file or in few bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file

from crossdiff.activations.cache import read_rows
from crossdiff.activations.harvest import harvest_shard
from crossdiff.config import ModelSource
from crossdiff.interventions.steered_answers import Change, answer, read
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.check import check_model
from crossdiff.models.forward import resume_from_layer, run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.logit_lens import promoted_tokens
from crossdiff.models.parts import decoder_layers
from crossdiff.models.prepare import prepare
from crossdiff.models.refusals import answers
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.texts.shards import Shard

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base", layers=3)


@pytest.fixture(scope="module")
def lora(base):
    """An adapter's folder, and the model as peft runs it."""
    folder = base.parent / "lora"
    return folder, write_adapter(base, folder)


@pytest.fixture(scope="module")
def chat(base, lora) -> Path:
    return adapted(base, lora[0], base.parent / "chat")


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(4, 260, (3, 11), generator=torch.Generator().manual_seed(1))


# A LoRA adapter in the jobs that run models.


def test_adapter_gives_the_logits_of_peft_and_not_those_of_the_base(base, lora, chat, ids):
    model = load_model(chat, torch.float32)
    with torch.no_grad():
        expected = lora[1](ids).logits
        assert torch.equal(model(ids).logits, expected)
        assert not torch.allclose(load_model(base, torch.float32)(ids).logits, expected, atol=1)


def test_adapters_folder_holds_no_copy_of_the_bases_weights(chat, base):
    weights = [path.name for path in chat.rglob("*.safetensors")]
    assert weights == [ADAPTER]
    assert json.loads((chat / "adapter_config.json").read_text())["base_model_name_or_path"] == "../base"


def test_folders_of_models_may_move_together(chat, base, ids, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(chat, tmp_path / "chat")
    one, other = (load_model(folder, torch.float32) for folder in (chat, tmp_path / "chat"))
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_adapter_gets_the_precision_that_is_asked_for(chat):
    model = load_model(chat, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_harvest_and_patching_run_the_adapted_blocks(lora, chat, ids, tmp_path):
    model = load_model(chat, torch.float32)
    assert len(decoder_layers(model)) == 3
    with torch.no_grad():
        states = lora[1](ids, output_hidden_states=True).hidden_states
        logits = lora[1](ids).logits
    assert torch.equal(run_to_layer(model, ids, 1), states[2])
    last = resume_from_layer(model, states[2], ids, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.lm_head(model.model.norm(last)), logits)
    rows = ids.numel()
    zeros = np.zeros(rows, np.int8)
    shard = Shard(
        ids.flatten().numpy().astype(np.int32),
        np.zeros(rows, np.int64),
        np.tile(np.arange(11), 3).astype(np.int32),
        zeros,
        zeros,
    )
    harvest_shard(model, shard, {1: tmp_path / "cache.h5"}, 64)
    torch.testing.assert_close(
        read_rows(tmp_path / "cache.h5", 0, rows).float(), states[2].flatten(0, 1), atol=0.05, rtol=0.01
    )


def test_answers_and_steering_are_those_of_peft(lora, chat, ids):
    model, prompts = load_model(chat, torch.float32), [row.numpy() for row in ids]
    expected = lora[1].generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6
    )[:, 11:]
    said = greedy(model, prompts, 6)
    assert [answer.tolist() for answer in said] == [
        row.tolist()[: len(a)] for row, a in zip(expected, said, strict=True)
    ]
    [steered] = answer(model, read(model, prompts, 1, [1] * 3), [Change.nothing(32)], 6)
    assert [row.tolist() for row in steered.answers] == [row.tolist() for row in said]
    with torch.no_grad():
        logits = lora[1](torch.cat([ids, expected], dim=1)).logits.log_softmax(dim=2)
    nats = [
        -sum(float(logits[i, 10 + place, token]) for place, token in enumerate(row.tolist()))
        for i, row in enumerate(said)
    ]
    np.testing.assert_allclose(answer_nats(model, prompts, said), nats, rtol=1e-4)


def test_refusals_and_directions_come_from_the_adapted_model(base, chat, lora):
    models = [load_model(folder, torch.float32) for folder in (base, chat)]
    tokenizer = load_tokenizer(chat)
    asked = [answers(model, tokenizer, ["hi", "who are you?"], 5) for model in models]
    assert asked[0] != asked[1]
    # No adapted layer stands behind the last block.
    directions = torch.eye(32)[:3]
    promoted = [promoted_tokens(model, directions).promoted.map(list).tolist() for model in models]
    assert promoted[0] == promoted[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [2]},
        {"bias": "all", "target_modules": ["q_proj"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm"]},
        {"trainable_token_indices": [3, 9]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=lambda settings: next(iter(settings)) + str(next(iter(settings.values()))),
)
def test_kinds_of_lora_give_the_logits_of_peft(base, ids, settings, tmp_path):
    expected = write_adapter(base, tmp_path / "lora", **settings)
    model = load_model(
        adapted(base, tmp_path / "lora", tmp_path / "chat", trained_on=str(base)), torch.float32
    )
    ids = torch.cat([ids, torch.tensor([[3], [9], [3]])], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "saved"),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, "adapted"),
    ],
)
def test_adapter_with_new_tokens_has_their_rows(base, settings, shown, tmp_path):
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<new>", "<newer>"], special_tokens=True)
    expected = write_adapter(base, tmp_path / "lora", tokenizer, rows=262, **settings)
    chat = adapted(base, tmp_path / "lora", tmp_path / "chat", trained_on=str(base))
    model = load_model(chat, torch.float32)
    ids = torch.tensor([[5, 260, 9, 261]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits)
    assert check_model(chat, chat, 1)["vocabulary"] == 262
    assert load_model(base, torch.float32).get_input_embeddings().weight.shape[0] == 260


def test_new_tokens_without_rows_of_the_output_are_refused(base, tmp_path):
    write_adapter(base, tmp_path / "lora", rows=262, modules_to_save=["embed_tokens"])
    file = tmp_path / "lora" / ADAPTER
    tensors = {name: value for name, value in load_file(file).items() if "lm_head" not in name}
    save_file(tensors, file, {"format": "pt"})
    chat = adapted(base, tmp_path / "lora", tmp_path / "chat", trained_on=str(base))
    assert "it adds tokens, but has no new rows for lm_head" in one_line(load_model, chat, torch.float32)


def test_merged_adapter_is_a_plain_model_with_the_summed_weights(base, lora, tmp_path):
    merged = adapted(base, lora[0], tmp_path / "merged", trained_on=str(base), merge=True)
    assert sorted(path.name for path in merged.iterdir()) == sorted(path.name for path in base.iterdir())
    written, plain, small = (
        load_file(file)
        for file in (merged / "model.safetensors", base / "model.safetensors", lora[0] / ADAPTER)
    )
    assert written.keys() == plain.keys()
    for name, weight in plain.items():
        parts = [small.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight") for x in "AB"]
        change = 16 / 4 * parts[1] @ parts[0] if parts[0] is not None else 0
        torch.testing.assert_close(written[name].float(), weight.float() + change, atol=0.01, rtol=0.01)
        assert written[name].dtype == weight.dtype


def test_adapter_on_a_base_of_its_own_keeps_that_base(base, lora, ids, tmp_path):
    """The pair's base is another model."""
    source = ModelSource(adapter={"folder": str(lora[0]), "base": {"folder": str(base)}})
    prepare(source, tmp_path / "chat", None)
    assert (tmp_path / "chat/base/model.safetensors").is_file()
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "chat", torch.float32)(ids).logits, lora[1](ids).logits)


def test_tokenizer_is_the_adapters_if_it_has_one_else_the_bases(base, lora, chat, tmp_path):
    assert load_tokenizer(chat).get_vocab() == load_tokenizer(base).get_vocab()
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    own = shutil.copytree(lora[0], tmp_path / "lora")
    tokenizer.save_pretrained(own)
    found = load_tokenizer(adapted(base, own, tmp_path / "chat", trained_on=str(base)))
    assert found.chat_template == "{{ messages[0]['content'] }}"
    for path in own.glob("tokenizer*"):
        path.unlink()  # only the template is left
    found = load_tokenizer(adapted(base, own, tmp_path / "again", trained_on=str(base)))
    assert found.chat_template == "{{ messages[0]['content'] }}"
