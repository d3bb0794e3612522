"""Checkpoints of 8 and 4 bits run in the jobs as transformers runs them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_folders import random_model
from helpers_texts import one_line
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crossdiff.config import Finetuning, ModelSource
from crossdiff.interventions.proof import allowed, prove
from crossdiff.models import finetune as finetuning
from crossdiff.models.check import check_model
from crossdiff.models.digests import digest
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.prepare import prepare

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
