"""What was loaded: the digest covers it, no tensor is there twice, and none that counts is dropped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file
from transformers import GPTJConfig, GPTJForCausalLM, MixtralConfig, MixtralForCausalLM

from crossdiff.models import digests
from crossdiff.models.check import check_model
from crossdiff.models.digests import ROW, digest
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.tensors import unknown
from crossdiff.models.weight_files import INDEX, WEIGHTS, check_folder

HEAD, NORM = "lm_head.weight", "model.norm.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "copy")


def rewrite(folder: Path, change) -> Path:
    """Send the tensors of a folder through ``change``."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
    return folder


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# The digest.


def test_digest_sees_each_replaced_expert() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 128}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    experts = model.model.layers[0].mlp.experts.gate_up_proj.data
    seen = {digest(model)}
    for expert in experts:
        expert.copy_(torch.randn_like(expert))
        seen.add(digest(model))
    assert len(seen) == 129


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.rotary_emb.inv_freq"])
def test_digest_sees_one_changed_bit_and_two_swapped_values(base: Path, name: str) -> None:
    model = load_model(base, torch.bfloat16)
    own = digest(model)
    values = dict([*model.named_parameters(), *model.named_buffers()])[name].data.view(-1)
    values[-1] = -values[-1]  # one bit
    changed = digest(model)
    values[-1] = -values[-1]
    assert digest(model) == own != changed
    values[[0, 1]] = torch.tensor([1.5, 2.5]).to(values)
    before = digest(model)
    values[[0, 1]] = values[[1, 0]]
    assert digest(model) != before


@pytest.mark.parametrize(
    "change", [lambda x: -x, lambda x: x.flip(0), lambda x: x.roll(ROW, 0), torch.zeros_like]
)
def test_sums_see_changes_of_many_values_at_once(change) -> None:
    values = torch.randn(5 * ROW, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert digests._sums(values) != digests._sums(change(values))


def test_sum_is_that_of_keys_and_words() -> None:
    keys = [int(key) for key in digests._keys(torch.device("cpu"))[:2]]
    sums = digests._sums(torch.tensor([3, -1, 5, 0, 1], dtype=torch.int8))  # a word is 4 bytes, lowest first
    words = [3 + 255 * 2**8 + 5 * 2**16, 1]
    assert int.from_bytes(sums, "little") == sum(a * b for a, b in zip(keys, words, strict=True)) % 2**64


@pytest.mark.parametrize("part", [slice(1, 8), slice(3, 3), slice(None, None, 2)])
def test_sums_are_those_of_the_values_wherever_they_lie(part: slice) -> None:
    values = torch.arange(17, dtype=torch.bfloat16)[part]
    assert digests._sums(values) == digests._sums(values.clone())


def test_digest_sees_one_value_of_an_adapter(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "lora")
    chat = adapted(base, tmp_path / "lora", tmp_path / "chat")
    model = load_model(chat, torch.float32)
    own = digest(model)
    assert own == digest(load_model(chat, torch.float32)) != digest(load_model(base, torch.float32))
    weight = next(value for name, value in model.named_parameters() if "lora_B" in name)
    weight.data[3, 1] *= 1.01
    assert digest(model) != own


# Tensors that are there twice.


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_tensor_with_and_without_a_wrapper_is_refused(copy: Path, prefix: str) -> None:
    rewrite(copy, lambda tensors: tensors | {prefix + HEAD: tensors[HEAD] + 1})
    for read in (check_weights, lambda folder: load_model(folder, torch.float32)):
        message = one_line(read, copy)
        assert message.startswith(f"{copy}: tensors that are there twice: 1 (") and message.endswith(
            "keep one of each"
        )
        assert f"{prefix}{HEAD} in {WEIGHTS}" in message and f" {HEAD} in {WEIGHTS}" in message.replace(
            "(", " "
        )


def test_tensor_with_and_without_the_name_of_the_body_is_refused(copy: Path) -> None:
    rewrite(copy, lambda tensors: tensors | {"norm.weight": tensors[NORM] + 1})
    assert "tensors that are there twice: 1 (" in one_line(check_weights, copy)


def in_shards(copy: Path, change=lambda shards: None) -> Path:
    """Write the model in two shards, after ``change`` of their tensors."""
    tensors = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    shards = {file: {name: tensors[name] for name in part} for file, part in parts.items()}
    places = {name: file for file, part in parts.items() for name in part}
    change(shards)
    for file, part in shards.items():
        save_file(part, copy / file, {"format": "pt"})
    (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return copy


def test_tensor_in_two_shards_is_refused_with_both(copy: Path) -> None:
    def repeat(shards) -> None:
        first, second = shards.values()
        second[HEAD] = first[HEAD] + 1

    message = one_line(check_weights, in_shards(copy, repeat))
    files = [f"{HEAD} in model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert message == f"{copy}: tensors that are there twice: 1 ({' and '.join(files)}); keep one of each"


def test_shards_without_repeats_are_read(base: Path, copy: Path) -> None:
    assert digest(load_model(in_shards(copy), torch.float32)) == digest(load_model(base, torch.float32))


def test_adapter_with_a_tensor_twice_is_refused(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "lora")
    path = tmp_path / "lora/adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {f"_orig_mod.{name}": tensors[name] + 1}, path, {"format": "pt"})
    assert f"_orig_mod.{name} in {path.name}" in one_line(adapted, base, tmp_path / "lora", tmp_path / "chat")


# Tensors that the model does not know.

STRANGE = {
    "model.layers.0.connector.weight": (32, 32),
    "model.layers.1.mtp.weight": (32, 32),
    "model.layers.0.vision_tower.weight": (32, 32),
    "model.layers.1.mlp.audio_projector.weight": (32, 32),
    "model.layers.0.self_attn.bias": (32,),
    "model.layers.0.attention.bias": (32, 32),
    "score.weight": (1, 32),
}


@pytest.mark.parametrize("name", STRANGE)
def test_tensor_of_a_block_is_not_taken_for_a_part_that_is_not_used(copy: Path, name: str) -> None:
    rewrite(copy, lambda tensors: tensors | {name: torch.ones(STRANGE[name])})
    assert f"1 that the model does not know ({name})" in one_line(check_weights, copy)


UNUSED = [
    "model.vision_tower.encoder.layers.0.connector.weight",
    "model.connector.modality_projection.weight",
    "model.multi_modal_projector.0.weight",
    "model.image_newline",
    "mtp.layers.0.self_attn.q_proj.weight",
    "model.mtp_layers.0.mlp.up_proj.weight",
    "model.mtp_block.0.mlp.up_proj.weight",
    "mtp.0.mlp.up_proj.weight",
    "model.layers.4.self_attn.q_proj.weight",  # the head of DeepSeek that predicts later tokens
    "model.layers.4.shared_head.norm.weight",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "transformer.h.0.attn.bias",
    "transformer.h.0.attn.masked_bias",
    "v_head.summary.weight",
]


def test_tensors_that_no_job_uses_are_known() -> None:
    assert unknown(UNUSED, 4, 1, {"transformer.h.0.attn.bias"}) == []


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mask_of_an_older_version_is_no_bias(tmp_path: Path, prefix: str) -> None:
    sizes = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
    GPTJForCausalLM(GPTJConfig(**sizes)).save_pretrained(tmp_path)
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)}
    rewrite(tmp_path, lambda tensors: {prefix + name: value for name, value in (tensors | mask).items()})
    check_weights(tmp_path)


# Configurations and indices with odd values.


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rms_norm_eps": "1e-6"}, "Field 'rms_norm_eps' expected float, got str (value: '1e-6')"),
        ({"num_hidden_layers": "two"}, "Field 'num_hidden_layers' expected int, got str (value: 'two')"),
        ({"hidden_size": None}, "Field 'hidden_size' expected int, got NoneType (value: None)"),
        (
            {"num_attention_heads": 3},
            "hidden size (32) is not a multiple of the number of attention heads (3)",
        ),
        ({"layer_types": ["a", "b"]}, "The `layer_types` entries must be in "),
        ({"rope_parameters": "x"}, "Field 'rope_parameters' with value 'x'"),
        ({"model_type": ["llama"]}, "no usable config.json"),
        ({"id2label": 3}, "no usable config.json"),
        ({"num_key_value_heads": 0}, "copy: not a usable model folder"),
        ({"vocab_size": -5}, "copy: not a usable model folder"),
        ({"text_config": "x"}, 'config.json: text_config: found "x", allowed: a mapping'),
        ({"text_config": [1]}, "config.json: text_config: found [1], allowed: a mapping"),
        ({"quantization_config": "4bit"}, 'quantization_config: found "4bit", allowed: a mapping'),
        (
            {"text_config": {"quantization_config": 4}},
            "text_config.quantization_config: found 4, allowed: a map",
        ),
    ],
)
def test_odd_value_of_a_configuration_is_one_line(copy: Path, values: dict, said: str) -> None:
    edit(copy / "config.json", **values)
    message = one_line(check_model, copy, copy, 0)
    assert message.startswith(str(copy)) and said in message


@pytest.mark.parametrize(
    ("places", "found"),
    [(None, "null"), (["a"], '["a"]'), ({"a": 1}, "1"), ({"a": None}, "null"), ("x", '"x"')],
)
def test_odd_index_is_one_line(copy: Path, places, found: str) -> None:
    in_shards(copy)
    edit(copy / INDEX, weight_map=places)
    message = one_line(check_folder, copy)
    assert message.startswith(f"{copy / INDEX}: weight_map: found {found}, allowed: each tensor's name")
