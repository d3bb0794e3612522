"""Adapters as trainers leave them: named, wrapped, empty, begun in special ways, or of another peft."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_config import changed
from helpers_families import tiny
from helpers_folders import random_model
from helpers_texts import one_line
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crossdiff.config import ModelSource
from crossdiff.interventions.proof import PARTS, proof_texts, prove
from crossdiff.models.check import check_model
from crossdiff.models.digests import digest
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.prepare import prepare
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.provenance import storage
from crossdiff.workflow.run import Run

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
IDS = torch.arange(4, 24)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base", layers=3)


@pytest.fixture(scope="module")
def lora(base):
    """An adapter's folder, and the model as peft runs it."""
    folder = base.parent / "lora"
    return folder, write_adapter(base, folder)


@pytest.fixture
def copy(lora, tmp_path) -> Path:
    return shutil.copytree(lora[0], tmp_path / "lora")


def rewrite(folder: Path, change) -> None:
    """Send the names and tensors of an adapter through ``change``."""
    tensors = load_file(folder / WEIGHTS).items()
    save_file(dict(change(name, value) for name, value in tensors), folder / WEIGHTS, {"format": "pt"})


def edit(path: Path, **settings) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def prepared(base: Path, folder: Path, tmp_path: Path) -> Path:
    return adapted(base, folder, tmp_path / "chat", trained_on=str(base))


def assert_same(folder: Path, expected: torch.nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(folder, torch.float32)(IDS).logits, expected.eval()(IDS).logits, atol=1e-5, rtol=1e-5
        )


# Names and shapes of tensors.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.", "base_model.model._orig_mod."),  # torch.compile
        ("base_model.model.model.", "base_model.model.model._fsdp_wrapped_module."),
        ("base_model.", "module.base_model."),  # DataParallel
        (".weight", ".default.weight"),  # state_dict() in place of save_pretrained()
    ],
)
def test_names_of_tensors_with_what_wrapped_the_model_are_read(base, lora, copy, old, new, tmp_path):
    rewrite(copy, lambda name, value: (name.replace(old, new, 1), value))
    assert any(new in name for name in load_file(copy / WEIGHTS))
    chat = prepared(base, copy, tmp_path)
    check_weights(chat)
    assert_same(chat, lora[1])


def test_empty_tensors_of_zero_3_are_refused_with_their_shapes(base, copy, tmp_path):
    rewrite(copy, lambda name, _value: (name, torch.empty(0)))
    message = one_line(check_weights, prepared(base, copy, tmp_path))
    assert message.endswith("layers.0.self_attn.q_proj.lora_A.default.weight is [0] instead of [4, 32]")


@pytest.mark.parametrize("kept", [0, 500])
def test_adapter_that_is_cut_off_is_refused_before_any_job(copy, base, kept):
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:kept])
    adapter = {"folder": str(copy), "trained_on": str(base)}
    message = one_line(Run(changed("pair.chat", {"adapter": adapter})).check_models)
    assert message.startswith(f"{copy / WEIGHTS}: {kept} bytes") and message.endswith("download it again")


def test_adapter_that_is_a_pointer_of_git_lfs_is_called_so(copy, base, tmp_path):
    (copy / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 268\n")
    assert "pointer of git-lfs" in one_line(prepared, base, copy, tmp_path)


def test_adapter_that_was_never_trained_is_refused(base, copy, tmp_path):
    rewrite(copy, lambda name, value: (name, value * 0 if "lora_B" in name else value))
    message = one_line(load_model, prepared(base, copy, tmp_path), torch.float32)
    assert message.endswith("the adapter changes nothing, because all its B matrices are 0; train it first")


# Settings.


@pytest.mark.parametrize("begun", ["gaussian", "orthogonal", "eva", "pissa", "olora"])
def test_adapter_runs_as_in_peft_however_its_training_began(base, begun, tmp_path):
    write_adapter(base, tmp_path / "lora", init_lora_weights=begun)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chat = prepared(base, tmp_path / "lora", tmp_path)
    check_weights(chat)
    assert_same(chat, PeftModel.from_pretrained(plain, tmp_path / "lora"))


@pytest.mark.parametrize("begun", ["pissa_niter_4", "loftq", "corda", "lora_ga"])
def test_adapter_on_weights_that_its_training_changed_is_refused(base, copy, begun, tmp_path):
    edit(copy / SETTINGS, init_lora_weights=begun)
    message = one_line(prepared, base, copy, tmp_path)
    assert f"init_lora_weights: found {begun}, which changes the base's weights; save the" in message


def test_setting_of_a_newer_peft_is_not_ignored(base, copy, tmp_path):
    edit(copy / SETTINGS, use_sparkle=True)
    message = one_line(check_weights, prepared(base, copy, tmp_path))
    assert "use_sparkle: peft" in message and message.endswith("install a newer peft")


def test_setting_of_another_peft_that_is_off_is_no_hindrance(base, lora, copy, tmp_path):
    edit(copy / SETTINGS, use_sparkle=False, sparkle_config=None)
    assert_same(prepared(base, copy, tmp_path), lora[1])


def test_adapter_of_a_classifier_gives_its_layers(base, lora, copy, tmp_path):
    edit(copy / SETTINGS, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    assert_same(prepared(base, copy, tmp_path), lora[1])


def test_head_of_a_classifier_is_refused(base, copy, tmp_path):
    tensors = load_file(copy / WEIGHTS) | {"base_model.model.score.weight": torch.zeros(2, 32)}
    save_file(tensors, copy / WEIGHTS, {"format": "pt"})
    message = one_line(check_weights, prepared(base, copy, tmp_path))
    assert "1 that the model does not know (base_model.model.score.weight)" in message


# Folders.


def test_adapter_with_a_name_is_found_in_its_subfolder(base, lora, tmp_path):
    shutil.copytree(lora[0], tmp_path / "runs/mine")
    message = one_line(prepared, base, tmp_path / "runs", tmp_path)
    assert message.endswith("it needs adapter_config.json; found one in mine: name that folder")


def test_whole_model_given_as_an_adapter_is_told_how_to_name_it(base):
    message = one_line(Run(changed("pair.chat", {"adapter": {"folder": str(base)}})).check_models)
    assert message.endswith(f"it holds a whole model: give it as folder: {base}")


# What every job relies on.


def test_digest_covers_the_adapters_weights_and_settings(base, lora, copy, tmp_path, monkeypatch):
    job = SimpleNamespace(loaded={})
    monkeypatch.setattr(storage, "current_job", job)
    digests = {digest(load_model(base, torch.float32))}
    for number, change in enumerate(("none", "weights", "settings")):
        if change == "weights":
            rewrite(copy, lambda name, value: (name, value + 0.01))
        if change == "settings":
            edit(copy / SETTINGS, lora_alpha=8)
        chat = adapted(base, copy, tmp_path / f"chat{number}", trained_on=str(base))
        load_model(chat, torch.float32)
        digests.add(job.loaded[str(chat)]["digest"])
    assert len(digests) == 4
    (tmp_path / "deeper").mkdir()
    again = adapted(base, lora[0], tmp_path / "deeper/again", trained_on=str(base))
    load_model(again, torch.float32)
    assert job.loaded[str(again)]["digest"] == job.loaded[str(tmp_path / "chat0")]["digest"]


def test_adapted_model_is_proved_like_any_other(base, lora, tmp_path):
    chat = prepared(base, lora[0], tmp_path)
    texts = proof_texts(load_tokenizer(chat))
    found = prove(load_model(chat, torch.float32), "chat", texts, 1, list(PARTS))
    assert list(found) == list(PARTS) and max(found.values()) < 1e-5


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "llava", "mistral3"])
def test_adapter_on_the_text_model_of_a_vision_language_model_runs(base, family, tmp_path):
    whole = tiny(family)
    for path in base.glob("*token*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "plain").mkdir()
    whole.save_pretrained(tmp_path / "plain")
    for path in base.glob("*token*"):
        shutil.copy(path, tmp_path / "plain")
    prepare(ModelSource(folder=str(tmp_path / "plain")), tmp_path / "base", None)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    expected = get_peft_model(whole, LoraConfig(r=4, lora_alpha=16, target_modules=targets))
    with torch.no_grad():
        for name, weight in expected.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    expected.save_pretrained(tmp_path / "lora")
    chat = adapted(tmp_path / "base", tmp_path / "lora", tmp_path / "chat")
    assert check_model(chat, base, 1)["layers"] == 4
    assert_same(chat, expected)
    texts = [np.arange(4, 20), np.arange(4, 12)]
    assert (
        max(prove(load_model(chat, torch.float32), "chat", texts, 1, ["harvest", "patching"]).values()) < 1e-5
    )
