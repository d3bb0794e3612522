"""Models as people have them: odd files, other kinds of models, copied addresses."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers_adapters import FakeHub
from helpers_config import changed, refusal_of
from helpers_folders import edit, random_model
from helpers_report import BETAS, EXAMPLES, inputs, page_of
from helpers_texts import one_line
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from crossdiff.config import ModelSource
from crossdiff.models.check import check_model
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.prepare import prepare
from crossdiff.models.tokenizers import text_config
from crossdiff.models.weight_files import check_folder
from crossdiff.workflow.run import Run

WEIGHTS = "model.safetensors"
IDS = torch.arange(4, 24)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "copy")


def rewrite(folder: Path, change) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder, torch.float32)(IDS).logits


def refused_early(folder: Path) -> str:
    """The line in which a config with this folder ends, before any job."""
    return one_line(Run(changed("pair.base", {"folder": str(folder)})).check_models)


# Weights.


def test_empty_tensors_of_zero_3_are_refused_with_their_shapes(copy):
    rewrite(copy, lambda tensors: dict.fromkeys(tensors, torch.empty(0)))
    assert "21 of another shape (lm_head.weight [0] instead of [260, 32], " in one_line(check_weights, copy)


def test_tensor_that_no_shard_holds_is_refused(copy):
    load_model(copy, torch.bfloat16).save_pretrained(copy, max_shard_size="30kB")
    (copy / WEIGHTS).unlink()
    shard = sorted(copy.glob("model-*.safetensors"))[-1]
    tensors = load_file(shard)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, shard, {"format": "pt"})
    assert f"1 missing ({lost})" in one_line(check_weights, copy)


def test_shards_that_were_left_next_to_the_whole_file_are_not_read(base, copy):
    for number in (1, 2):
        save_file({"x": torch.zeros(1)}, copy / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
    assert torch.equal(logits(copy), logits(base))


def test_head_that_differs_from_tied_embeddings_is_the_files(base, copy):
    edit(copy / "config.json", tie_word_embeddings=True)
    assert torch.equal(logits(copy), logits(base))


def test_head_that_is_missing_without_tied_embeddings_is_refused(copy):
    rewrite(copy, lambda tensors: {name: value for name, value in tensors.items() if "head" not in name})
    assert "1 missing (lm_head.weight)" in one_line(check_weights, copy)


@pytest.mark.parametrize("tied", [False, True])
def test_model_saved_without_its_head_is_read_only_if_the_head_is_known(copy, tied):
    rewrite(
        copy,
        lambda tensors: {
            name.removeprefix("model."): value for name, value in tensors.items() if "head" not in name
        },
    )
    edit(copy / "config.json", tie_word_embeddings=tied)
    if tied:
        model = load_model(copy, torch.float32)
        assert torch.equal(model.lm_head.weight, load_file(copy / WEIGHTS)["embed_tokens.weight"].float())
    else:
        assert "1 missing (lm_head.weight)" in one_line(check_weights, copy)


def test_config_with_fewer_layers_than_the_weights_is_refused(copy):
    edit(copy / "config.json", num_hidden_layers=1)
    assert "9 that the model does not know (model.layers.1.input_layernorm" in one_line(check_weights, copy)


def test_reward_model_is_refused_for_its_missing_head(base, copy):
    LlamaForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(copy)
    assert "1 missing (lm_head.weight)" in one_line(check_weights, copy)


def test_translation_model_is_refused_by_its_type(copy):
    sizes = {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 260}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(copy)
    assert "model_type: found t5, which is no language model" in one_line(check_model, copy, copy, 1)


def test_one_missing_tensor_is_refused_and_not_made_up(copy):
    lost = "model.layers.0.self_attn.q_proj.weight"
    rewrite(copy, lambda tensors: {name: value for name, value in tensors.items() if name != lost})
    for read in (check_weights, lambda folder: load_model(folder, torch.float32)):
        assert f"1 missing ({lost})" in one_line(read, copy)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pytorch_model.bin", b"", "convert them: python -c"),
        ("consolidated.safetensors", b"", "in the format of their authors only"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"x": "model-1.safetensors"}}',
            "shards are missing",
        ),
        (WEIGHTS, b"\x08\x00\x00\x00\x00\x00", "6 bytes that are no whole safetensors file"),
        (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
    ids=["pickled", "of the authors", "shard missing", "cut off", "git-lfs"],
)
def test_weights_that_are_not_there_are_told_when_the_config_is_read(copy, name, content, said):
    (copy / WEIGHTS).unlink()
    (copy / name).write_bytes(content)
    message = refused_early(copy)
    assert message.startswith(f"pair.base.folder: {copy}") and said in message


# Configurations.


def test_code_of_a_repository_is_never_run_and_never_asked_about(copy):
    edit(copy / "config.json", model_type="sparkle", auto_map={"AutoConfig": "conf.Sparkle"})
    (copy / "conf.py").write_text("raise SystemExit('was run')")
    message = one_line(text_config, copy)
    assert message == (
        f"{copy}: no usable config.json (it needs code of its own (auto_map), which Crossdiff never runs)"
    )


def test_code_next_to_a_known_family_is_left_alone(base, copy):
    edit(copy / "config.json", auto_map={"AutoModelForCausalLM": "model.Sparkle"})
    (copy / "model.py").write_text("raise SystemExit('was run')")
    assert torch.equal(logits(copy), logits(base))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"model_type": "sparkle"}, "model type `sparkle`"), ({"model_type": None}, "no usable config.json")],
)
def test_family_that_transformers_does_not_know_is_one_line(copy, settings, said):
    edit(copy / "config.json", **settings)
    assert said in one_line(text_config, copy)


@pytest.mark.parametrize("text", ["<html>Not found</html>", "[]", ""])
def test_generation_config_that_can_not_be_read_is_not_dropped(copy, text):
    (copy / "generation_config.json").write_text(text)
    assert f"{copy / 'generation_config.json'}: " in refused_early(copy)


# Folders and files.


def test_folder_of_a_training_names_its_checkpoints(base, tmp_path):
    for step in (5, 10, 15, 20):
        shutil.copytree(base, tmp_path / f"runs/checkpoint-{step}")
    message = refused_early(tmp_path / "runs")
    assert message.endswith(
        "config.json; found one in checkpoint-10, checkpoint-15, checkpoint-20 and 1 more: name that folder"
    )


def test_repository_in_the_hubs_cache_names_its_snapshots(base, tmp_path):
    shutil.copytree(base, tmp_path / "models--org--model/snapshots/0123")
    message = refused_early(tmp_path / "models--org--model")
    assert message.endswith("found one in snapshots/0123: name that folder")


def test_snapshot_in_the_hubs_cache_is_read_through_its_links(base, tmp_path):
    snapshot, blobs = tmp_path / "models--org--model/snapshots/0123", tmp_path / "models--org--model/blobs"
    shutil.copytree(base, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs", path.name))
    prepare(ModelSource(folder=str(snapshot)), tmp_path / "model", None)
    assert not any(path.is_symlink() for path in (tmp_path / "model").iterdir())
    assert torch.equal(logits(tmp_path / "model"), logits(base))


def test_gguf_file_given_as_a_folder_is_told_how_to_name_it(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert refused_early(tmp_path / "a.gguf").endswith(f"give it as gguf: {{file: {tmp_path / 'a.gguf'}}}")


def test_folder_with_a_gguf_file_is_told_how_to_name_it(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert refused_early(tmp_path).endswith(f"give it as gguf: {{file: {tmp_path / 'a.gguf'}}}")


def test_home_folder_may_be_written_as_tilde(base, monkeypatch):
    monkeypatch.setenv("HOME", str(base.parent))
    run = Run(changed("pair.base", {"folder": "~/base"}))
    run.check_models()
    assert str(base / WEIGHTS) in run.model_files(run.comparisons[0].pair.model_name("base"))


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "found a pointer of git-lfs, not the file"),
        (b"\x08\x00\x00\x00{}", "not a usable GGUF file (it begins with"),
        (b"", "not a usable GGUF file (it begins with"),
    ],
)
def test_file_that_is_no_gguf_file_is_refused_before_any_job(tmp_path, begin, said):
    (tmp_path / "a.gguf").write_bytes(begin)
    source = {"gguf": {"file": str(tmp_path / "a.gguf")}}
    message = one_line(Run(changed("pair.base", source)).check_models)
    assert message.startswith(f"pair.base.gguf.file: {tmp_path / 'a.gguf'}: ") and said in message


@pytest.mark.parametrize("family", ["sparkle", "clip"])  # clip is the part of a model that reads images
def test_gguf_file_of_an_unknown_family_is_one_line(tmp_path, family):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", family)
    writer.add_tensor("x", np.zeros((2, 2), "float32"))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    source = ModelSource(gguf={"file": str(tmp_path / "a.gguf")})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert f"not a usable GGUF file (GGUF model with architecture {family} is not supported yet" in message


# The hub.


@pytest.mark.parametrize(
    ("name", "todo"),
    [
        ("https://huggingface.co/org/model", "; write org/model"),
        ("huggingface.co/org/model/tree/main", "; write org/model"),
        ("https://hf.co/org/model?library=transformers", "; write org/model"),
        ("./models/mine", "; a path on this machine is no name on the hub"),
        ("/scratch/models/mine", "; a path on this machine is no name on the hub"),
        ("~/mine", "; a path on this machine is no name on the hub"),
        ("org/model/checkpoint-5", ""),
        ("org/model@main", ""),
    ],
)
def test_address_or_path_is_no_name_of_a_repository(name, todo):
    message = refusal_of("pair.base", {"hub": {"name": name, "revision": "main"}})
    assert message == f"pair.base.hub.name: found {name}, allowed: OWNER/NAME{todo}"


def test_commit_that_looks_like_a_number_has_to_be_in_quotes():
    message = refusal_of("pair.base", {"hub": {"name": "org/model", "revision": 1234567}})
    assert message.endswith('allowed: text (write it in quotes: "1234567")')


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["config.json", "pytorch_model.bin"], "convert them: python -c"),
        (["config.json", "consolidated.00.pth"], "in the format of their authors only"),
        (["model-Q4_K_M.gguf"], "give it as gguf: {file: model-Q4_K_M.gguf, hub: ...}"),
        (
            ["config.json", "adapter_config.json", "adapter_model.safetensors"],
            "give it as adapter: {base: ...",
        ),
        (["config.json", "README.md"], "it has no weights"),
    ],
)
def test_repository_without_the_weights_that_are_read_says_what_it_holds(
    base, there, said, tmp_path, monkeypatch
):
    folder = tmp_path / "hub/org/model"
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).touch()
    if "config.json" in there:
        shutil.copy(base / "config.json", folder)
    hub = FakeHub(tmp_path / "hub", monkeypatch)
    source = ModelSource(hub={"name": "org/model", "revision": "v1"})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert message.startswith("hub model org/model@v1: ") and said in message and str(tmp_path) not in message
    assert not any(name.endswith((".bin", ".pth", ".gguf")) for name in hub.taken)


def test_cache_that_lacks_the_weights_is_called_so_without_a_network(base, tmp_path, monkeypatch):
    folder = shutil.copytree(base, tmp_path / "hub/org/model")
    (folder / WEIGHTS).unlink()
    hub = FakeHub(tmp_path / "hub", monkeypatch)
    hub.cached = True
    source = ModelSource(hub={"name": "org/model", "revision": "v1"})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert message == (
        "hub model org/model@v1: not all of it is in the hub's cache, and the hub can't be asked "
        "(no network); go on where there is a network"
    )


def test_gguf_file_may_be_named_with_its_folder_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "hub/org/model/quants").mkdir(parents=True)
    (tmp_path / "hub/org/model/quants/a.gguf").write_bytes(b"none")
    hub = FakeHub(tmp_path / "hub", monkeypatch)
    source = {"hub": {"name": "org/model", "revision": "v1"}, "file": "quants/a.gguf"}
    message = one_line(prepare, ModelSource(gguf=source), tmp_path / "model", None)
    assert hub.taken == ["quants/a.gguf"] and "a.gguf: not a usable GGUF file (it begins with" in message


def test_half_a_repository_is_refused_by_its_name(base, tmp_path, monkeypatch):
    folder = shutil.copytree(base, tmp_path / "hub/org/model")
    (folder / WEIGHTS).unlink()
    parts = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(parts))
    FakeHub(tmp_path / "hub", monkeypatch)
    source = ModelSource(hub={"name": "org/model", "revision": "v1"})
    message = one_line(prepare, source, tmp_path / "model", None)
    assert message.startswith("hub model org/model@v1/model.safetensors.index.json: 1 of its 1 shards are")
    assert check_folder(base) is None


# Models that do not differ.


@pytest.mark.parametrize("same", [False, True])
def test_report_says_that_both_models_are_the_same(tmp_path, same):
    given = inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES})
    if same:
        summary = json.loads(Path(given.summary).read_text())
        edit(Path(given.summary), mean=[summary["mean"][0]] * 2, rms=[summary["rms"][0]] * 2)
    text = " ".join(page_of(given).text.split())
    assert ("Both models gave the same activations on every token" in text) == same
