"""Adapters that do not fit their base, and sources that make no sense: a line each, mostly before any job."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_config import SMALL, changed, refusal_of
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file

from crossdiff.config import Adapter, ModelSource
from crossdiff.models.adapter_folder import check_adapter
from crossdiff.models.check import check_model
from crossdiff.models.load import load_model
from crossdiff.models.prepare import prepare
from crossdiff.workflow.run import Run

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base", layers=3)


@pytest.fixture(scope="module")
def lora(base) -> Path:
    write_adapter(base, base.parent / "lora")
    return base.parent / "lora"


def broken(lora: Path, folder: Path, change=None, **settings) -> Path:
    """A copy of an adapter with other ``settings``, whose tensors went through ``change``."""
    shutil.copytree(lora, folder)
    values = json.loads((folder / "adapter_config.json").read_text()) | settings
    (folder / "adapter_config.json").write_text(json.dumps(values))
    if change:
        save_file(change(load_file(lora / ADAPTER)), folder / ADAPTER, {"format": "pt"})
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != Q},
            "not those of its base's layers: 1 missing (base_",
        ),
        (
            lambda t: t | {Q.replace("layers.0", "layers.7"): t[Q].clone()},
            "1 that the model does not know (base_model.model.model.layers.7",
        ),
        (
            lambda t: {
                k.replace("model.model.layers", "model.model.language_model.layers"): v for k, v in t.items()
            },
            "that the model does not know",
        ),
        (
            lambda t: t | {Q: t[Q][:16].clone()},
            "do not fit the base: base_model.model.model.layers.0.self_attn.q",
        ),
    ],
    ids=["missing", "unknown", "prefix", "shape"],
)
def test_adapter_whose_tensors_are_not_its_bases_is_refused(base, lora, change, said, tmp_path):
    folder = broken(lora, tmp_path / "lora", change)
    chat = adapted(base, folder, tmp_path / "chat", trained_on=str(base))
    for call in (lambda: check_model(chat, chat, 1), lambda: load_model(chat, torch.float32)):
        assert said in one_line(call)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type: found PREFIX_TUNING, allowed: LORA"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens: an adapter that starts"),
        ({"base_model_name_or_path": "org/other"}, "names the base org/other, but the base here is"),
    ],
)
def test_adapter_of_another_kind_or_base_is_refused(base, lora, settings, said, tmp_path):
    folder = broken(lora, tmp_path / "lora", **settings)
    assert said in one_line(adapted, base, folder, tmp_path / "chat")
    values = changed("pair.base", {"folder": str(base)})
    values = changed("pair.chat", {"adapter": {"folder": str(folder)}}, values)
    assert said in one_line(Run(values).check_models)  # before any job


def test_target_layers_that_the_base_lacks_are_refused(base, lora, tmp_path):
    chat = adapted(base, lora, tmp_path / "chat", trained_on=str(base))
    other = broken(chat, tmp_path / "other", target_modules=["c_attn"], base_model_name_or_path=str(base))
    assert "Target modules" in one_line(load_model, other, torch.float32)


@pytest.mark.parametrize(
    ("weights", "said"), [(None, f"it needs {ADAPTER}"), ("adapter_model.bin", "save it again with peft")]
)
def test_adapter_without_its_weights_is_refused(base, lora, weights, said, tmp_path):
    folder = broken(lora, tmp_path / "lora")
    (folder / ADAPTER).unlink()
    if weights:
        (folder / weights).touch()
    assert said in one_line(adapted, base, folder, tmp_path / "chat")


@pytest.mark.parametrize(
    ("named", "source", "same"),
    [
        ("meta-llama/Llama-3.1-8B", {"hub": {"name": "meta-llama/Llama-3.1-8B", "revision": "x"}}, True),
        ("meta-llama/llama-3.1-8b", {"hub": {"name": "meta-llama/Llama-3.1-8B", "revision": "x"}}, True),
        ("unsloth/Llama-3.1-8B", {"hub": {"name": "meta-llama/Llama-3.1-8B", "revision": "x"}}, False),
        ("/scratch/me/Llama-3.1-8B/", {"hub": {"name": "meta-llama/Llama-3.1-8B", "revision": "x"}}, True),
        ("org/new", {"folder": "/data/new"}, True),
        ("../models/other", {"folder": "/data/new"}, False),
        ("/c/hub/models--org--new/snapshots/0123", {"hub": {"name": "org/new", "revision": "x"}}, True),
        ("/c/hub/models--org--new/snapshots/0123", {"folder": "/data/old"}, False),
        ("C:\\models\\new", {"folder": "/data/new"}, True),
        ("org/new", {"gguf": {"file": "new.gguf"}}, False),
        (None, {"gguf": {"file": "new.gguf"}}, True),
    ],
)
def test_base_is_compared_by_its_name(lora, named, source, same, tmp_path):
    folder = broken(lora, tmp_path / "lora", base_model_name_or_path=named)
    adapter, base = Adapter(folder=str(folder)), ModelSource(**source)
    if same:
        check_adapter(folder, adapter, base, "key")
    else:
        assert f"set trained_on: {named}" in one_line(check_adapter, folder, adapter, base, "key")
        check_adapter(folder, adapter.model_copy(update={"trained_on": named}), base, "key")
    wrong = adapter.model_copy(update={"trained_on": "org/wrong"})
    if named:
        assert "found org/wrong, but" in one_line(check_adapter, folder, wrong, base, "key")


@pytest.mark.parametrize("with_config", [False, True])
def test_adapter_given_as_a_folder_is_told_how_to_name_it(base, lora, with_config, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "lora")
    if with_config:
        shutil.copy(base / "config.json", folder)
    message = one_line(Run(changed("pair.base", {"folder": str(folder)})).check_models)
    assert message == (
        f"pair.base.folder: {folder}: it is an adapter (LoRA), no whole model; "
        f"give it as adapter: {{base: ..., folder: {folder}}}"
    )


def test_merged_model_with_its_adapter_next_to_it_is_not_adapted_again(base, lora, tmp_path):
    ids = torch.arange(4, 14)[None]
    folder = shutil.copytree(base, tmp_path / "merged")
    for path in lora.glob("adapter*"):
        shutil.copy(path, folder)
    prepare(ModelSource(folder=str(folder)), tmp_path / "model", None)
    one, other = (load_model(path, torch.float32) for path in (base, tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


# The config.


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("pair.base", {"adapter": {"folder": "x"}}, "base.adapter.base: missing"),
        ("pair.chat", {"adapter": {}}, "found none, give exactly one of hub, folder"),
        ("pair.chat", {"adapter": {"folder": "x", "base": {}}}, "found none, give exactly one of hub"),
        ("pair.chat", {"adapter": {"folder": "x", "base": {"random": {}}}}, "unknown key"),
        ("pair.chat", {"hub": {"name": "a/b", "revision": "m", "subfolder": "/x"}}, "words of letters"),
        ("pair.chat", {"gguf": {}}, "pair.chat.gguf.file: missing"),
        ("tokens.base_replacements", {5: 6, 7: 5}, "found 5, which is itself replaced"),
        ("tokens.base_replacements", {-5: 6}, "greater than or equal to 0"),
    ],
)
def test_sources_that_make_no_sense_are_refused(path, value, said):
    assert said in refusal_of(path, value)


@pytest.mark.parametrize("chat", [{"adapter": {"folder": "z"}}, SMALL["pair"]["chat"]])
def test_chat_model_that_is_made_from_an_adapter_needs_it_merged(chat):
    values = changed("pair.base", {"adapter": {"folder": "x", "base": {"folder": "y"}}})
    assert "base.adapter.merge: found False" in refusal_of("pair.chat", chat, values)


def test_files_of_all_sources_are_inputs(base, lora, tmp_path):
    (tmp_path / "m.gguf").touch()
    values = changed("pair.base", {"gguf": {"file": str(tmp_path / "m.gguf")}})
    adapter = {"folder": str(lora), "base": {"folder": str(base)}}
    run = Run(changed("pair.chat", {"adapter": adapter}, values))
    base_name, chat_name = (run.comparisons[0].pair.model_name(role) for role in ("base", "chat"))
    assert run.model_files(base_name) == [str(tmp_path / "m.gguf")]
    names = [Path(path).name for path in run.model_files(chat_name)]
    assert {"config.json", "model.safetensors", "adapter_config.json", ADAPTER} <= set(names)
    missing = one_line(Run(changed("pair.base", {"gguf": {"file": "no.gguf"}})).check_models)
    assert missing == "pair.base.gguf.file: no.gguf: found no such file"


def test_adapter_of_the_pairs_base_depends_on_it_and_its_name():
    run = Run(changed("pair.chat", {"adapter": {"folder": "x", "base": "base"}}))
    base_name, chat_name = (run.comparisons[0].pair.model_name(role) for role in ("base", "chat"))
    assert {f"models.{base_name}.package", f"models.{chat_name}.adapter"} <= set(run.source_keys(chat_name))
    alone = Run(changed("pair.chat", {"folder": "x"}))
    assert all(key.startswith(f"models.{chat_name}.") for key in alone.source_keys(chat_name))
