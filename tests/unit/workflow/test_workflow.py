"""What the Snakefile asks for: the settings of each rule, shards, names and folders."""

import re

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from snakemake.iocontainers import Wildcards

from crossdiff.errors import UserError
from crossdiff.results.home import ORDER_ONLY
from crossdiff.workflow.run import Run, result_folders

SMALL = """
pair:
  name: small
  layer: 1
  base: {random: {layers: 2, d_model: 32, chat_template: data/plain.jinja}}
  chat: {finetune: {chat_template: data/plain.jinja, data: {talk: 1000}}}
datasets:
  pages: {kind: documents, format: text, files: [b.txt, a.txt], tokens: 2500, validation_tokens: 1000}
  talk: {kind: chats, format: messages, files: [talk.jsonl], tokens: 3000, validation_tokens: 1}
tokens: {context: 128, shard: 1000}
crosscoders:
  topk: {loss: batchtopk, expansion: 4, k: 8, batch: 256, tokens: 25600, threshold_start_step: 50}
  l1: {loss: l1, latents: 96, l1_coefficient: 0.05, batch: 256, tokens: 25600, warmup_steps: 7}
"""


def run(**top_level) -> Run:
    return Run(yaml.safe_load(SMALL) | top_level)


def reversed_keys(value):
    if not isinstance(value, dict):
        return value
    return {key: reversed_keys(inner) for key, inner in reversed(value.items())}


NOTHING = Wildcards()


# Settings of a rule.


def test_settings_are_a_sorted_flat_dict_with_full_names():
    settings = run().settings("tokens", "pair.layer")(NOTHING)
    assert list(settings.items()) == [
        ("pair.layer", 1),
        ("tokens.base_replacements", {}),
        ("tokens.chat_template", None),
        ("tokens.context", 128),
        ("tokens.date", "2024-07-26"),
        ("tokens.shard", 1000),
        ("tokens.template_arguments", {}),
        ("tokens.tokenizer", None),
        ("tokens.unusable", 0.01),
    ]


def test_settings_hold_defaults_and_the_keys_of_the_yaml():
    settings = run().settings("models.small-chat.finetune")(NOTHING)
    assert settings["models.small-chat.finetune.from"] == "small-base"
    assert settings["models.small-chat.finetune.learning_rate"] == 3e-4
    assert settings["models.small-chat.finetune.data.talk"] == 1000


def test_settings_are_plain_values():
    values = (
        run()
        .settings("pair", "datasets", "tokens.context", "activations", "crosscoders", "classes")(NOTHING)
        .values()
    )
    plain = {str, int, float, bool, list, type(None)}
    assert {type(value) for value in values if value != {}} <= plain  # an empty section is a value


def test_wildcards_in_keys_are_filled_in():
    settings = run().settings("crosscoders.{crosscoder}.warmup_steps", "datasets.{dataset}.tokens")
    wildcards = Wildcards(fromdict={"crosscoder": "l1", "dataset": "pages"})
    assert settings(wildcards) == {"crosscoders.l1.warmup_steps": 7, "datasets.pages.tokens": 2500}


def test_unknown_key_is_an_error():
    with pytest.raises(KeyError, match="contxt"):
        run().settings("tokens.contxt")(NOTHING)


def test_order_of_keys_in_the_yaml_does_not_count():
    keys = ("pair", "datasets", "crosscoders")
    one, other = run(), Run(reversed_keys(yaml.safe_load(SMALL)))
    assert list(one.settings(*keys)(NOTHING).items()) == list(other.settings(*keys)(NOTHING).items())


def test_order_of_files_counts():
    values = yaml.safe_load(SMALL)
    values["datasets"]["pages"]["files"].reverse()
    key = "datasets.pages.files"
    assert run().settings(key)(NOTHING) != Run(values).settings(key)(NOTHING)


def test_swapped_values_differ():
    one, other = run(tokens={"context": 128, "shard": 1000}), run(tokens={"context": 1000, "shard": 128})
    assert one.settings("tokens")(NOTHING) != other.settings("tokens")(NOTHING)


def test_setting_at_its_default_equals_the_setting_left_out():
    assert run(seeds=[0]).settings("seeds")(NOTHING) == run().settings("seeds")(NOTHING) == {"seeds": [0]}


def test_text_keys_are_all_but_the_budgets():
    keys = run().text_keys("pages")
    settings = run().settings(*run().text_keys("{dataset}"))(Wildcards(fromdict={"dataset": "pages"}))
    assert sorted(settings) == sorted(keys)
    assert settings["datasets.pages.files"] == ["b.txt", "a.txt"]
    assert not any(key.endswith("tokens") for key in keys)


# Shards.


@pytest.mark.parametrize(
    ("dataset", "split", "tokens"),
    [
        ("pages", "train", [1000, 1000, 500]),
        ("pages", "validation", [1000]),
        ("talk", "train", [1000] * 3),
        ("talk", "validation", [1]),
    ],
)
def test_shards_are_full_but_the_last_and_add_up_to_the_budget(dataset, split, tokens):
    one = run()
    shards = one.shards(dataset, split)
    assert shards == ["0000", "0001", "0002"][: len(tokens)]
    assert one.n_shards(dataset, split) == len(tokens)
    assert [one.shard_tokens(dataset, split, shard) for shard in shards] == tokens


@given(budget=st.integers(1, 10**7), size=st.integers(1000, 10**6))
def test_shard_tokens_add_up_for_any_budget(budget, size):
    pages = yaml.safe_load(SMALL)["datasets"]["pages"] | {"tokens": budget}
    talk = yaml.safe_load(SMALL)["datasets"]["talk"]
    one = run(datasets={"pages": pages, "talk": talk}, tokens={"shard": size})
    tokens = [one.shard_tokens("pages", "train", shard) for shard in one.shards("pages", "train")]
    assert sum(tokens) == budget and set(tokens[:-1]) <= {size} and 0 < tokens[-1] <= size


def test_larger_budget_keeps_the_shards_of_before():
    pages = yaml.safe_load(SMALL)["datasets"]["pages"]
    talk = yaml.safe_load(SMALL)["datasets"]["talk"]
    small, large = run(), run(datasets={"pages": pages | {"tokens": 9000}, "talk": talk})
    for shard in ("0000", "0001"):
        assert small.shard_tokens("pages", "train", shard) == large.shard_tokens("pages", "train", shard)
    assert small.settings(*small.text_keys("pages"))(NOTHING) == large.settings(*large.text_keys("pages"))(
        NOTHING
    )


# Files that a model's source reads.


def test_model_files_are_those_of_the_folder_or_the_template(tmp_path):
    # The last three are not copied.
    for name in ("model.safetensors", "config.json", "README.md", "optimizer.pt", "modeling.py"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "subfolder").mkdir()
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": str(tmp_path)}
    assert Run(values).model_files("small-base") == [
        f"{tmp_path}/config.json",
        f"{tmp_path}/model.safetensors",
    ]
    assert run().model_files("small-base") == ["data/plain.jinja"]


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_a_model_is_refused_by_its_key(tmp_path, monkeypatch, exists):
    monkeypatch.setenv("HOME", str(tmp_path))
    if exists:
        (tmp_path / "model").mkdir()
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": "~/model"}
    with pytest.raises(UserError) as caught:
        Run(values).model_files("small-base")
    assert (
        str(caught.value)
        == f"pair.base.folder: found {tmp_path}/model, allowed: a Hugging Face folder with config.json"
    )


def test_folder_below_the_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": "~"}
    assert Run(values).model_files("small-base") == [f"{tmp_path}/config.json"]
    # prepare_model gets the full path.
    assert Run(values).settings("pair.base")(NOTHING)["pair.base.folder"] == str(tmp_path)


# Names, which paths are made of.


def test_models_bear_the_pairs_name_unless_they_have_their_own():
    assert run().made == ["small-base", "small-chat"]
    values = yaml.safe_load(SMALL)
    values["pair"]["base"]["name"] = "llama"
    one = Run(values)
    [seen] = one.comparisons
    assert [seen.pair.model_name(role) for role in ("base", "chat")] == ["llama", "small-chat"]
    assert seen.tokenizer_name == "small-chat"


def test_name_of_a_model_is_no_setting_of_its_rule():
    """A model that gets another name gets another folder; what is in it stays the same."""
    settings = run().settings(*run().source_keys("small-base"))(NOTHING)
    assert "models.small-base.random.seed" in settings
    assert not any(key.endswith(".name") for key in settings)


def test_folders_of_a_run_begin_with_its_own():
    folders = result_folders(run().config)
    assert folders[0] == "results/small"
    assert folders[1:] == [
        "results/tokens/small-chat",
        "results/activations/small-base",
        "results/activations/small-chat",
    ]


def test_loading_a_result_ignores_the_inputs_that_the_rules_call_ancient():
    rules = (ROOT / "rules/activations.smk").read_text()
    assert set(re.findall(r"(\w+)=ancient\(", rules)) == set(ORDER_ONLY)


def test_folder_of_texts_is_looked_up_once_for_the_jobs_of_all_shards(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    pages = yaml.safe_load(SMALL)["datasets"]["pages"] | {"files": [str(tmp_path)]}
    asked = run(datasets=yaml.safe_load(SMALL)["datasets"] | {"pages": pages})
    assert asked.text_files("pages") == [str(tmp_path / "a.txt")]
    monkeypatch.setattr("crossdiff.config.sources.expanded", None)  # calling it would fail
    assert asked.text_files("pages") == [str(tmp_path / "a.txt")]
