"""Models on the hub, in GGUF files and in few bits: only what is needed, and a line for what can't be had."""

import json
import shutil
from pathlib import Path

import gguf
import httpx2
import numpy as np
import pytest
import torch
from helpers_adapters import FakeHub, write_adapter
from helpers_config import changed
from helpers_folders import random_model
from helpers_texts import one_line
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from crossdiff.config import ModelSource
from crossdiff.models.load import load_model
from crossdiff.models.prepare import prepare
from crossdiff.models.quantised import LIBRARIES, PACKAGES, check_quantisation
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.models.weight_files import read_config
from crossdiff.workflow.run import Run

HUB = {"name": "org/model", "revision": "v1"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base")


# The hub.


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/org/model"))


def offline() -> errors.LocalEntryNotFoundError:
    error = errors.LocalEntryNotFoundError("no snapshot")
    error.__cause__ = errors.OfflineModeIsEnabled("offline")
    return error


ERRORS = {
    "gated": (
        errors.GatedRepoError("401 Client Error. (Request ID: x)", response=response(401)),
        "gated; accept its terms at https://huggingface.co/org/model, then run hf auth login or set HF_TOKEN",
    ),
    "missing or private": (
        errors.RepositoryNotFoundError("404 Client Error.", response=response(404)),
        "the hub shows no such model; correct its name, or run hf auth login or set HF_TOKEN if it is",
    ),
    "revision": (
        errors.RevisionNotFoundError("404", response=response(404)),
        "the hub has no such revision; name a commit, a tag or main",
    ),
    "disabled": (errors.DisabledRepoError("403", response=response(403)), "disabled by the hub"),
    "entry": (
        errors.RemoteEntryNotFoundError("404", response=response(404)),
        "it has no file that is needed; correct its name, revision or subfolder",
    ),
    "token": (errors.HfHubHTTPError("401", response=response(401)), "the hub refuses your token"),
    "server": (errors.HfHubHTTPError("503 Server Error", response=response(503)), "503 Server Error"),
    "offline": (offline(), "not in the hub's cache, and HF_HUB_OFFLINE is set"),
    "no network": (
        errors.LocalEntryNotFoundError("x"),
        "not in the hub's cache, and the hub can't be reached",
    ),
    "name": (errors.HFValidationError("Repo id must be"), "no name of a hub repository; allowed: OWNER/NAME"),
    "connection": (
        httpx2.ConnectError("Name or service not known"),
        "(Name or service not known); go on where",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_way_to_fail_has_its_own_line(kind, tmp_path, monkeypatch):
    error, said = ERRORS[kind]

    def refuse(*_arguments, **_named):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    message = one_line(prepare, ModelSource(hub=HUB), tmp_path / "model", None)
    assert message.startswith("hub model org/model@v1: ") and said in message
    assert list(tmp_path.iterdir()) == []


def test_lines_differ():
    assert len({said for _, said in ERRORS.values()}) == len(ERRORS)


def repository(base: Path, root: Path, subfolder: str = "") -> Path:
    """A repository as they are: next to the model lie other formats, checkpoints, code and pictures."""
    folder = root / "org/model" / subfolder
    shutil.copytree(base, folder)
    for name in (
        "consolidated.safetensors",
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "README.md",
        "modeling.py",
        "trainer_state.json",
        "onnx/model.safetensors",
        "original/params.json",
        "checkpoint-5/model.safetensors",
        "adapter_config.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (root / "org/model/config.json").touch()
    return root


@pytest.mark.parametrize("subfolder", [None, "runs/checkpoint-500"])
def test_only_what_is_needed_is_downloaded(base, subfolder, tmp_path, monkeypatch):
    hub = FakeHub(repository(base, tmp_path / "hub", subfolder or ""), monkeypatch)
    prepare(ModelSource(hub=HUB | {"subfolder": subfolder}), tmp_path / "model", None)
    written = sorted(path.name for path in base.iterdir())
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == written
    within = f"{subfolder}/" if subfolder else ""
    assert {file.removeprefix(within) for file in hub.taken} == {*written, "adapter_config.json"}
    assert all(file.startswith(within) for file in hub.taken)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_without_a_network_the_hubs_cache_is_used_and_kept(base, tmp_path, monkeypatch):
    FakeHub(repository(base, tmp_path / "hub"), monkeypatch).cached = True
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    weights = tmp_path / "hub/org/model/model.safetensors"
    shutil.move(weights, blobs / "0123")
    weights.symlink_to(blobs / "0123")
    prepare(ModelSource(hub=HUB), tmp_path / "model", None)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (blobs / "0123").read_bytes()
    assert not (tmp_path / "model/model.safetensors").is_symlink()


def test_repository_without_a_model_is_refused(tmp_path, monkeypatch):
    (tmp_path / "hub/org/model").mkdir(parents=True)
    FakeHub(tmp_path / "hub", monkeypatch)
    message = one_line(prepare, ModelSource(hub=HUB), tmp_path / "model", None)
    assert message == "hub model org/model@v1: it has no config.json; correct its name, revision or subfolder"
    (tmp_path / "hub/org/model/adapter_config.json").write_text("{}")
    message = one_line(prepare, ModelSource(hub=HUB), tmp_path / "model", None)
    assert message == (
        "hub model org/model@v1: it is an adapter (LoRA), no whole model; "
        "give it as adapter: {base: ..., hub: ...}"
    )


def test_adapter_on_the_hub_comes_without_its_trainers_files(base, tmp_path, monkeypatch):
    folder = tmp_path / "hub/org/model/last"
    expected = write_adapter(base, folder)
    for name in ("optimizer.pt", "model.safetensors", "training_args.bin", "x/adapter_model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    hub = FakeHub(tmp_path / "hub", monkeypatch)
    source = ModelSource(adapter={"hub": HUB | {"subfolder": "last"}})
    prepare(source, base.parent / "chat", None, (base, ModelSource(folder=str(base))))
    assert sorted(hub.taken) == ["last/adapter_config.json", "last/adapter_model.safetensors"]
    ids = torch.arange(4, 14)[None]
    with torch.no_grad():
        assert torch.equal(load_model(base.parent / "chat", torch.float32)(ids).logits, expected(ids).logits)


# Few bits.


def quantised(folder: Path, method: str | None) -> Path:
    folder.mkdir(parents=True)
    values = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
    if method:
        values["quantization_config"]["quant_method"] = method
    (folder / "config.json").write_text(json.dumps(values))
    save_file({}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("method", [None, *(method for method, modules in LIBRARIES.items() if modules)])
def test_checkpoint_of_few_bits_without_its_library_is_one_line(method, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = quantised(tmp_path / "model", method)
    missing = LIBRARIES[method or "bitsandbytes"]
    packages = " and ".join(PACKAGES.get(module, module) for module in missing)
    message = one_line(check_quantisation, read_config(folder), "it")
    assert message.startswith(f"it: quantised by {method or 'bitsandbytes'}, and {packages} is not installed")
    assert message in one_line(Run(changed("pair.base", {"folder": str(folder)})).check_models).replace(
        f"pair.base.folder: {folder}", "it"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_quantisation(read_config(folder), "it")


def test_unknown_method_of_few_bits_is_refused(tmp_path):
    folder = quantised(tmp_path / "model", "sparkle")
    assert "quantised by sparkle, allowed: bitsandbytes" in one_line(
        check_quantisation, read_config(folder), "it"
    )


def test_few_bits_on_the_hub_are_refused_before_the_download(base, tmp_path, monkeypatch):
    repository(base, tmp_path / "hub")
    shutil.copy(
        quantised(tmp_path / "q", "hqq") / "config.json",
        tmp_path / "hub/org/model/config.json",
    )
    hub = FakeHub(tmp_path / "hub", monkeypatch)
    message = one_line(prepare, ModelSource(hub=HUB), tmp_path / "model", None)
    assert message.startswith("hub model org/model@v1: quantised by hqq, and hqq is not installed")
    assert sorted(hub.taken) == ["adapter_config.json", "config.json"]


# GGUF.


def write_gguf(base: Path, path: Path) -> None:
    """The model in ``base`` as a GGUF file of 32 bits."""
    model, tokenizer = load_model(base, torch.float32), load_tokenizer(base)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    tokens[-1] = "hi"  # GGUF needs a merge
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (config.vocab_size - 4))
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:  # GGUF has the halves of rotary embeddings interleaved
            heads = config.num_attention_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        short = name.removesuffix(".weight").replace("model.layers", "blk")
        for one, other in names.items():
            short = (
                other
                if short == one
                else short.replace(f".{one}", f".{other}")
                if short.endswith(f".{one}")
                else short
            )
        writer.add_tensor(f"{short}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("place", ["local", "hub"])
def test_gguf_file_gives_the_weights_and_tokens_that_went_in(base, place, tmp_path, monkeypatch):
    file = tmp_path / "hub/org/model/quants/tiny.gguf"
    file.parent.mkdir(parents=True)
    write_gguf(base, file)
    # transformers would read these, too.
    (file.parent / "config.json").write_text("{}")
    (file.parent / "adapter_config.json").write_text("{}")
    source = {"file": str(file)}
    if place == "hub":
        FakeHub(tmp_path / "hub", monkeypatch)
        source = {"hub": HUB | {"subfolder": "quants"}, "file": "tiny.gguf"}
    prepare(ModelSource(gguf=source), tmp_path / "model", None)
    written, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", base))
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], weight) for name, weight in wanted.items())
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer("hi you", add_special_tokens=False)["input_ids"] == [
        259,
        *load_tokenizer(base)(" you", add_special_tokens=False)["input_ids"],
    ]


def test_part_of_a_split_gguf_file_is_refused(tmp_path):
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(b"GGUF")
    message = one_line(prepare, ModelSource(gguf={"file": str(part)}), tmp_path / "model", None)
    assert message == f"{part}: one part of a GGUF file; join the parts with llama-gguf-split --merge"


def test_gguf_file_that_the_hub_lacks_is_refused(tmp_path, monkeypatch):
    (tmp_path / "hub/org/model").mkdir(parents=True)
    FakeHub(tmp_path / "hub", monkeypatch)
    source = ModelSource(gguf={"hub": HUB, "file": "no.gguf"})
    assert (
        one_line(prepare, source, tmp_path / "model", None)
        == "hub model org/model@v1: it has no file no.gguf"
    )
