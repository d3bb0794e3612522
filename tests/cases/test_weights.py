"""Weights that are not those of their model, and folders without a whole model, are refused early."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file

from crossdiff.models.check import check_model
from crossdiff.models.digests import digest
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.tensors import stripped, unknown
from crossdiff.models.weight_files import check_folder
from crossdiff.provenance import storage

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def rewrite(folder: Path, change) -> Path:
    """Send the tensors of a folder through ``change``."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


# Names of tensors.

PREFIXES = [
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "base_model.model.",
    "_fsdp_wrapped_module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefix_of_a_wrapper_is_stripped_and_said(folder: Path, copy: Path, prefix: str, caplog) -> None:
    rewrite(copy, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    with caplog.at_level("INFO"):
        check_weights(copy)
        model = load_model(copy, torch.bfloat16)
    assert (
        f"prefixes of 21 of 21 tensors are stripped ({prefix}lm_head.weight is lm_head.weight)" in caplog.text
    )
    own = load_file(folder / "model.safetensors")
    assert all(torch.equal(value.cpu(), own[name]) for name, value in model.state_dict().items())


def test_wrapper_around_each_block_is_stripped(folder: Path, copy: Path) -> None:
    wrapped = re.compile(r"(layers\.\d+\.)")
    rewrite(
        copy,
        lambda tensors: {
            wrapped.sub(r"\1_checkpoint_wrapped_module.", name): value for name, value in tensors.items()
        },
    )
    assert digest(load_model(copy, torch.bfloat16)) == digest(load_model(folder, torch.bfloat16))


@pytest.mark.parametrize(
    "name", ["model.modules_list.weight", "model.layers.0.module.weight", "lm_head.weight"]
)
def test_other_names_are_not_changed(name: str) -> None:
    assert stripped(name) == name


def with_tensors(*names: str):
    return lambda tensors: tensors | {name: torch.ones(2, dtype=torch.bfloat16) for name in names}


UNUSED = [
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "vision_tower.blocks.0.weight",
    "model.visual.patch_embed.weight",
    "multi_modal_projector.linear_1.weight",
    "audio_tower.conv1.weight",
    "mtp.layers.0.mlp.weight",
    "v_head.summary.weight",
]


@pytest.mark.parametrize("name", UNUSED)
@pytest.mark.parametrize(
    "read", [lambda path: load_model(path, torch.float32), check_weights], ids=["load", "check"]
)
def test_tensors_of_parts_that_are_not_used_may_be_there(copy: Path, name: str, read) -> None:
    read(rewrite(copy, with_tensors(name)))


STRANGE = [
    "model.layers.0.self_attn.q_proj.bias",  # a bias that config.json leaves out
    "model.layers.2.self_attn.q_proj.weight",  # a block that config.json does not count
    "model.layers.0.mlp.experts.0.up_proj.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.q_proj.weight_scale",
]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize(
    "read", [lambda path: load_model(path, torch.float32), check_weights], ids=["load", "check"]
)
def test_tensor_that_would_be_dropped_is_refused_by_name(copy: Path, name: str, read) -> None:
    message = one_line(read, rewrite(copy, with_tensors(name)))
    assert message.startswith(
        f"{copy}: its tensors are not those of LlamaForCausalLM as config.json describes it"
    )
    assert f"1 that the model does not know ({name})" in message


def test_adapter_left_in_the_weights_is_called_so(copy: Path) -> None:
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    message = one_line(check_weights, rewrite(copy, with_tensors(lora)))
    assert (
        "1 that the model does not know" in message
        and "give it as adapter: {base: ..., folder: ...}" in message
    )


def test_blocks_that_predict_later_tokens_are_unused_only_where_the_config_counts_them() -> None:
    names = [f"model.layers.{block}.mlp.weight" for block in (1, 4, 5)]
    assert unknown(names, 4, 0) == names
    assert unknown(names, 4, 1) == [names[0], names[2]]
    assert unknown(names, 4, 2) == [names[0]]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("vocab_size", 261, "lm_head.weight [260, 32] instead of [261, 32]"),
        ("hidden_size", 64, "lm_head.weight [260, 32] instead of [260, 64]"),
        ("intermediate_size", 48, "model.layers.0.mlp.down_proj.weight [32, 64] instead of [32, 48]"),
        ("num_key_value_heads", 2, "model.layers.0.self_attn.k_proj.weight [32, 32] instead of [16, 32]"),
        ("num_hidden_layers", 3, "9 missing (model.layers.2."),
        ("num_hidden_layers", 1, "9 that the model does not know (model.layers.1."),
        ("attention_bias", True, "8 missing (model.layers.0.self_attn.k_proj.bias"),
    ],
)
def test_config_that_does_not_fit_names_the_tensor_and_the_shapes(
    copy: Path, key: str, value, said: str
) -> None:
    config = json.loads((copy / "config.json").read_text()) | {key: value}
    (copy / "config.json").write_text(json.dumps(config))
    assert said in one_line(check_model, copy, copy, 0)


# Files.


def test_pickled_weights_are_refused_with_a_command_that_converts_them(copy: Path, tmp_path: Path) -> None:
    model = load_model(copy, torch.float32)
    (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    message = one_line(check_folder, copy)
    command = re.search(r'python -c "(.+)"$', message)
    assert command is not None
    exec(command[1], {})
    assert digest(load_model(f"{copy}-safetensors", torch.float32)) == digest(model)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("consolidated.safetensors", "in the format of their authors only"),
        ("consolidated.00.pth", "in the format of their authors only"),
        ("model-q4.gguf", "give it as gguf: {file: "),
        ("weights.safetensors", "weights.safetensors is not one of the names that are read"),
        ("README.md", "it has no weights"),
    ],
)
def test_folder_without_the_weights_that_are_read_says_what_it_holds(
    copy: Path, there: str, said: str
) -> None:
    (copy / "model.safetensors").unlink()
    (copy / there).touch()
    assert said in one_line(check_folder, copy)


@pytest.mark.parametrize("with_config", [False, True])
def test_adapter_folder_says_how_to_name_it(copy: Path, with_config: bool) -> None:
    (copy / "model.safetensors").rename(copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text("{}")
    if not with_config:
        (copy / "config.json").unlink()
    message = one_line(check_folder, copy)
    assert message == (
        f"{copy}: it is an adapter (LoRA), no whole model; give it as adapter: {{base: ..., folder: {copy}}}"
    )


def sharded(copy: Path) -> list[Path]:
    load_model(copy, torch.bfloat16).save_pretrained(copy, max_shard_size="30kB")
    (copy / "model.safetensors").unlink()
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def test_shards_are_read(folder: Path, copy: Path) -> None:
    sharded(copy)
    check_folder(copy)
    assert digest(load_model(copy, torch.bfloat16)) == digest(load_model(folder, torch.bfloat16))


def test_missing_shard_is_named(copy: Path) -> None:
    shards = sharded(copy)
    shards[1].unlink()
    message = one_line(check_folder, copy)
    assert f"1 of its {len(shards)} shards are missing ({shards[1].name})" in message


def test_index_without_shards_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text("{}")
    assert "0 of its 0 shards are missing" in one_line(check_folder, copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pointer_of_git_lfs_is_called_so(copy: Path, name: str) -> None:
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 268\n")
    message = one_line(check_folder, copy)
    assert message == f"{copy / name}: found a pointer of git-lfs, not the file; run in {copy}: git lfs pull"


@pytest.mark.parametrize("kept", [0, 5, 1000, 20_000])
def test_file_that_is_cut_off_is_refused_with_its_size(copy: Path, kept: int) -> None:
    weights = copy / "model.safetensors"
    os.truncate(weights, kept)
    message = one_line(check_folder, copy)
    assert message.startswith(f"{weights}: ") and f"{kept:,} bytes" in message
    assert message.endswith("download it again")


@pytest.mark.parametrize("text", ["", "{", "[1]", "<html>Not found</html>"])
def test_config_that_is_no_mapping_is_refused_by_path(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert one_line(check_folder, copy).startswith(f"{copy / 'config.json'}: ")


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(
    ("settings", "library"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum and gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "hqq"),
    ],
)
def test_quantized_weights_need_their_library(
    copy: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, library: str, inner: bool
) -> None:
    config = json.loads((copy / "config.json").read_text())
    quantized = {"quantization_config": settings}
    (copy / "config.json").write_text(
        json.dumps(config | ({"text_config": quantized} if inner else quantized))
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert f"{library} is not installed; pip install" in one_line(check_folder, copy)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    check_folder(copy)


# The digest of what was loaded.


def test_digest_tells_apart_what_was_loaded(folder: Path, copy: Path) -> None:
    own = digest(load_model(folder, torch.bfloat16))
    assert own == digest(load_model(copy, torch.bfloat16))
    assert own != digest(load_model(copy, torch.float32))
    name = "model.layers.0.self_attn.q_proj.weight"
    other = rewrite(copy, lambda tensors: tensors | {name: torch.randn(32, 32).bfloat16()})
    assert own != digest(load_model(other, torch.bfloat16))


def test_record_of_a_job_holds_the_digest_of_its_models(folder: Path, monkeypatch) -> None:
    job = storage.CurrentJob("0" * 32, frozenset(), {}, {})
    monkeypatch.setattr(storage, "current_job", job)
    model = load_model(folder, torch.float32)
    assert job.loaded == {str(folder): {"digest": digest(model), "stripped_prefixes": 0}}


# Vision-language models and others: the class is chosen in the check.


def test_model_that_is_no_language_model_is_refused_in_the_check(copy: Path) -> None:
    (copy / "config.json").write_text(
        json.dumps({"model_type": "vit", "num_hidden_layers": 2, "hidden_size": 32})
    )
    assert "model_type: found vit, which is no language model" in one_line(check_weights, copy)
