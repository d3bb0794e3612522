"""Checkpoints of 8 and 4 bits run in the jobs as transformers runs them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_config import SMALL, refusal
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crossdiff.config import Finetuning, ModelSource
from crossdiff.interventions.proof import allowed, prove
from crossdiff.models import finetune as finetuning
from crossdiff.models import quantised
from crossdiff.models.check import check_model
from crossdiff.models.digests import digest
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.prepare import prepare
from crossdiff.workflow.run import Run

BLOCK = 128  # rows and columns of a weight that share a scale
IDS = torch.arange(4, 22).reshape(2, 9)


def in_blocks(weight: torch.Tensor) -> torch.Tensor:
    rows, columns = weight.shape
    return weight.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_checkpoint_gives_the_weights_times_their_scales(tmp_path, dtype):
    """Without a GPU that computes in 8 bits, all weights come in the asked precision."""
    base = random_model(tmp_path / "base", d_model=BLOCK)
    folder = shutil.copytree(base, tmp_path / "fp8")
    written, expected = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        written[name] = expected[name] = weight
        if "proj" in name:
            scale = in_blocks(weight.float()).abs().amax((1, 3)) / 448
            small = (in_blocks(weight.float()) / scale[:, None, :, None]).reshape(weight.shape)
            written[name] = small.to(torch.float8_e4m3fn)
            written[f"{name}_scale_inv"] = scale
            large = in_blocks(written[name].float()) * scale[:, None, :, None]
            expected[name] = large.reshape(weight.shape)
    save_file(written, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    method = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method}))
    prepare(ModelSource(folder=str(folder)), tmp_path / "model", None)
    assert check_model(tmp_path / "model", base, 1)["layers"] == 2
    model = load_model(tmp_path / "model", dtype)
    if model.device.type == "cpu":
        found = model.state_dict()
        assert {weight.dtype for weight in found.values()} == {dtype}
        assert all(torch.equal(found[name], weight.to(dtype)) for name, weight in expected.items())


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_checkpoint_runs_with_and_without_an_adapter(tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    base = random_model(tmp_path / "base", d_model=64, layers=3)
    small = shutil.copytree(base, tmp_path / "small")
    few = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    options = {"device_map": "cpu", "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(base, quantization_config=few, **options).save_pretrained(small)
    prepare(ModelSource(folder=str(small)), tmp_path / "model", None)
    write_adapter(base, tmp_path / "lora")
    chat = adapted(tmp_path / "model", tmp_path / "lora", tmp_path / "chat", trained_on=str(base))

    def fresh() -> torch.nn.Module:  # bitsandbytes changes its weights in the first pass
        return AutoModelForCausalLM.from_pretrained(small, **options).eval()

    for folder, model in (
        (tmp_path / "model", fresh()),
        (chat, PeftModel.from_pretrained(fresh(), tmp_path / "lora")),
    ):
        with torch.no_grad():
            states = model.eval()(IDS, output_hidden_states=True).hidden_states
        loaded = load_model(Path(folder), torch.float32)
        assert digest(loaded) == digest(load_model(Path(folder), torch.float32))
        assert torch.equal(run_to_layer(loaded, IDS, 1), states[2])
        texts = [IDS[0].numpy(), IDS[1, :4].numpy()]
        assert max(prove(loaded, "it", texts, 1, ["harvest", "head", "patching"]).values()) < allowed(loaded)


def of_few_bits(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    method = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method}))
    return folder


def test_fine_tuning_of_few_bits_is_refused(tmp_path, monkeypatch):
    base = of_few_bits(random_model(tmp_path / "base"))
    monkeypatch.setattr(finetuning, "turn_end", lambda *_: 0)
    settings = Finetuning(data={"talk": 1})
    message = one_line(finetuning.finetune, base, None, [], settings, tmp_path, tmp_path / "log.csv")
    assert "the base model's weights are quantised by gptq, which can't be trained" in message


def test_adapter_is_not_merged_into_few_bits(tmp_path):
    base = random_model(tmp_path / "base")
    write_adapter(base, tmp_path / "lora")
    message = one_line(adapted, of_few_bits(base), tmp_path / "lora", tmp_path / "chat", merge=True)
    assert message.startswith("pair.chat.adapter.merge: found True, but its base is quantised by gptq")


# Weights of 16 bits that are loaded in fewer: ``bits``.


@pytest.mark.parametrize("bits", [4, 8])
def test_bits_of_a_source_load_it_as_transformers_does(tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    base = random_model(tmp_path / "base", d_model=64, layers=3)
    prepare(ModelSource(folder=str(base), bits=bits), tmp_path / "model", None)
    assert check_model(tmp_path / "model", base, 1)["few_bits"] == f"{bits} bits (bitsandbytes)"
    ways = {8: {"load_in_8bit": True}, 4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    few = BitsAndBytesConfig(**ways[bits])
    options = {"device_map": "cpu", "dtype": torch.float32, "quantization_config": few}
    plain = AutoModelForCausalLM.from_pretrained(base, **options).eval()
    with torch.no_grad():
        states = plain(IDS, output_hidden_states=True).hidden_states
    loaded = load_model(tmp_path / "model", torch.float32)
    whole = load_model(base, torch.float32)
    assert digest(loaded) == digest(load_model(tmp_path / "model", torch.float32)) != digest(whole)
    found = run_to_layer(loaded, IDS, 1)
    assert torch.equal(found, states[2])
    error = (found - run_to_layer(whole, IDS, 1)).norm() / found.norm()
    assert 1e-4 < error < {8: 0.05, 4: 0.5}[bits]
    texts = [IDS[0].numpy(), IDS[1, :4].numpy()]
    assert max(prove(loaded, "it", texts, 1, ["harvest", "head", "patching"]).values()) < allowed(loaded)


@pytest.mark.parametrize("of", ["base", "chat"])
def test_an_adapter_on_a_base_of_4_bits(tmp_path, of):
    """The base has them, and the adapter with it; or the adapter's own source asks for them."""
    pytest.importorskip("bitsandbytes")
    base = random_model(tmp_path / "plain", d_model=64, layers=3)
    write_adapter(base, tmp_path / "lora")
    bits = {"base": None, "chat": None} | {of: 4}
    prepare(ModelSource(folder=str(base), bits=bits["base"]), tmp_path / "base", None)
    source = ModelSource(
        adapter={"folder": str(tmp_path / "lora"), "trained_on": str(base)}, bits=bits["chat"]
    )
    prepare(source, tmp_path / "chat", None, (tmp_path / "base", ModelSource(folder=str(base))))
    chat = load_model(tmp_path / "chat", torch.float32)
    kinds = {type(module).__name__ for module in chat.modules()}
    assert "Linear4bit" in kinds and any("lora" in name for name, _ in chat.named_parameters())
    assert ("few_bits" in check_model(tmp_path / "base", base, 1)) == (of == "base")
    assert check_model(tmp_path / "chat", base, 1)["few_bits"] == "4 bits (bitsandbytes)"
    streams = [run_to_layer(load_model(tmp_path / name, torch.float32), IDS, 1) for name in ("base", "chat")]
    assert not torch.allclose(*streams, atol=1e-2)


def of_pair(base: dict, chat: dict) -> dict:
    return SMALL | {"pair": SMALL["pair"] | {"base": base, "chat": chat}}


def installed(monkeypatch, there: bool) -> None:
    monkeypatch.setattr(quantised, "_installed", lambda _module: there)


def test_bits_without_the_library_stop_before_anything_is_fetched(tmp_path, monkeypatch):
    installed(monkeypatch, False)
    base = random_model(tmp_path / "base")
    values = of_pair({"folder": str(base), "bits": 4}, {"folder": str(base)})
    message = one_line(Run(values).check_models)
    install = "pip install bitsandbytes, or leave it out"
    assert message == f"pair.base.bits: found 4, and bitsandbytes is not installed; {install}"
    values = of_pair({"folder": str(base)}, {"hub": {"name": "o/n", "revision": "v"}, "bits": 8})
    assert one_line(Run(values).check_models).startswith("pair.chat.bits: found 8, and bitsandbytes is not")


def test_bits_of_weights_that_have_few_already_are_refused(tmp_path, monkeypatch):
    installed(monkeypatch, True)
    base = of_few_bits(random_model(tmp_path / "base"))
    message = "bits: found 8, but the weights are quantised by gptq already; leave it out"
    values = of_pair({"folder": str(base), "bits": 8}, {"folder": str(base)})
    assert one_line(Run(values).check_models) == f"pair.base.{message}"
    source = ModelSource(folder=str(base), bits=8)
    assert one_line(prepare, source, tmp_path / "model", None, key="pair.chat") == f"pair.chat.{message}"


def test_bits_decide_what_a_model_is(tmp_path):
    run = Run(
        of_pair({"folder": str(random_model(tmp_path / "base")), "bits": 4}, {"adapter": {"folder": "lora"}})
    )
    own = {f"models.small-{role}.bits" for role in ("base", "chat")}
    assert own <= set(run.source_keys("small-chat"))  # an adapter is loaded on its base


@pytest.mark.parametrize(
    ("chat", "use"),
    [
        (SMALL["pair"]["chat"], "trained"),
        ({"adapter": {"folder": "lora", "merge": True}}, "merged with an adapter"),
    ],
)
def test_a_base_of_few_bits_is_not_trained_or_merged(chat, use):
    [message] = refusal(of_pair({"folder": "base", "bits": 4}, chat))
    assert f"base.bits: found 4, but weights of few bits can't be {use}; leave it out" in message


@pytest.mark.parametrize(
    ("config", "bits", "expected"),
    [
        ({}, None, None),
        ({}, 4, "4 bits (bitsandbytes)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, None, "3 bits (gptq)"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, None, "8 bits (fp8)"),
        ({"quantization_config": {"load_in_8bit": True}}, None, "8 bits (bitsandbytes)"),
        ({"quantization_config": {"quant_method": "quark"}}, None, "few bits (quark)"),
    ],
)
def test_few_bits_in_words(config, bits, expected):
    assert quantised.few_bits(config, bits) == expected
