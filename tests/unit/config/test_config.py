"""The configuration: what it refuses, and that each refusal is one line with the key, what was found and what is allowed."""

import copy
import math

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crossdiff.config import crosscoder_settings, load
from crossdiff.errors import UserError

SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]
DELETE = object()

SMALL = yaml.safe_load(f"""
pair:
  name: small
  layer: 1
  base:
    package: {{name: some-model, version: 1.0, sha256: {"a" * 64}, file: model.gguf}}
  chat:
    finetune: {{chat_template: data/markers.jinja, data: {{talk: 1000}}, learning_rate: 0.001}}
datasets:
  pages: {{kind: documents, format: text, files: [pages.txt], tokens: 4000, validation_tokens: 400}}
  talk: {{kind: chats, format: messages, hub: {{name: org/talk, revision: main}}, tokens: 4000, validation_tokens: 400}}
tokens: {{context: 128, shard: 2000}}
activations: {{batch_tokens: 4096, max_norm_ratio: 10.0}}
crosscoders:
  topk: {{loss: batchtopk, expansion: 4, k: 8, batch: 256, tokens: 25600, threshold_start_step: 50, normalisation: {{kind: shared}}}}
  l1: {{loss: l1, latents: 96, l1_coefficient: 0.05, batch: 256, tokens: 25600}}
seeds: [0, 1]
latent_scaling: {{nu_error_below: 0.2, bootstrap: {{blocks: 20}}}}
classes: {{top: 10}}
examples: {{per_latent: 3, quantiles: [0.5, 1.0]}}
twins: {{cosine_above: 0.8}}
seed_agreement: {{cosine_above: 0.6}}
behaviour: {{requests: data/requests.yaml}}
causal: {{datasets: [talk], answer_tokens: 32}}
report: {{latents: 5}}
""")
SMALL["pair"]["base"]["package"]["version"] = "1.0"

NAMED_BY_THE_USER = {("datasets",), ("crosscoders",), ("pair", "chat", "finetune", "data")}


def settings_keys(values, path=()):
    """The path of every key whose name the schema gives; but ``loss``, which decides the schema."""
    for key, value in values.items():
        if path not in NAMED_BY_THE_USER and key != "loss":
            yield (*path, key)
        if isinstance(value, dict):
            yield from settings_keys(value, (*path, key))


def changed(path: str, value, values=SMALL):
    """A copy of ``values`` with the key at ``path`` set, or deleted."""
    values = copy.deepcopy(values)
    *parents, key = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    if value is DELETE:
        del section[key]
    else:
        section[key] = value
    return values


def refusal(values) -> list[str]:
    """The lines of the error."""
    with pytest.raises(UserError) as caught:
        load(values)
    lines = str(caught.value).split("\n")
    assert all(line.startswith("config: ") for line in lines)
    return [line.removeprefix("config: ") for line in lines]


def refusal_of(path: str, value, values=SMALL) -> str:
    """The one line that ``value`` at ``path`` gives."""
    [line] = refusal(changed(path, value, values))
    return line


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_loads(path):
    config = load(yaml.safe_load(path.read_text()))
    assert config.crosscoders.keys() == {"batchtopk", "l1"}


def test_left_out_keys_take_their_defaults():
    config = load(changed("seeds", DELETE))
    assert config.seeds == [0]
    assert config.crosscoders["topk"].auxiliary_coefficient == 1 / 32
    assert config.crosscoders["topk"].init_norm == 1.0 and config.crosscoders["l1"].init_norm == 0.005


# Unknown keys.


@pytest.mark.parametrize("path", settings_keys(SMALL), ids=".".join)
def test_misspelt_key_is_named_and_the_right_one_suggested(path):
    name = ".".join(path)
    values = changed(name, DELETE)
    section = values
    for part in path[:-1]:
        section = section[part]
    section[f"{path[-1]}x"] = 1
    assert any(line.startswith(f"{name}x: unknown key; did you mean {path[-1]}? allowed: ") for line in refusal(values))


def test_unknown_key_unlike_any_other_lists_the_allowed_ones():
    line = refusal_of("tokens.zzz", 1)
    assert line == "tokens.zzz: unknown key; allowed: context, shard"


@pytest.mark.parametrize("name", ["l1", "batchtopk"])
def test_misspelt_key_of_a_data_set_named_like_a_loss_suggests_data_set_keys(name):
    values = changed(f"datasets.{name}", SMALL["datasets"]["pages"])
    assert "did you mean validation_fraction?" in refusal_of(f"datasets.{name}.validation_fracton", 0.5, values)


def test_crosscoder_named_like_the_other_loss_suggests_keys_of_its_own():
    values = changed("crosscoders.l1", SMALL["crosscoders"]["topk"])
    line = refusal_of("crosscoders.l1.threshold_decai", 0.9, values)
    assert line.startswith("crosscoders.l1.threshold_decai: unknown key; did you mean threshold_decay?")


def test_key_of_one_loss_is_refused_in_the_other():
    assert refusal_of("crosscoders.l1.k", 8).startswith("crosscoders.l1.k: unknown key")


def test_every_problem_gets_a_line():
    values = changed("tokens.contxt", 1, changed("pair.layer", -1, changed("seeds", [])))
    assert [line.split(":")[0] for line in refusal(values)] == ["pair.layer", "tokens.contxt", "seeds"]


# Numbers that YAML reads as text.


@given(digits=st.integers(1, 99999), exponent=st.integers(-9, 3))
def test_number_that_yaml_reads_as_text_is_shown_as_it_must_be_written(digits, exponent):
    text = f"{digits}e{exponent}"
    assert isinstance(yaml.safe_load(text), str)
    line = refusal_of("crosscoders.l1.learning_rate", text)
    assert line.startswith(
        f"crosscoders.l1.learning_rate: found '{text}' (text), allowed: a valid number (YAML reads {text} as text; write "
    )
    written = yaml.safe_load(line.rpartition("write ")[2].removesuffix(")"))
    assert isinstance(written, float) and math.isclose(written, float(text))


def test_whole_number_that_yaml_reads_as_text_is_shown_as_it_must_be_written():
    line = refusal_of("crosscoders.l1.tokens", "2e6")
    assert line.startswith("crosscoders.l1.tokens: found '2e6' (text), allowed: a valid integer (YAML reads 2e6 as text; write ")
    written = yaml.safe_load(line.rpartition("write ")[2].removesuffix(")"))
    assert load(changed("crosscoders.l1.tokens", written)).crosscoders["l1"].tokens == 2_000_000


def test_text_that_is_no_number_gets_no_hint():
    assert refusal_of("crosscoders.l1.learning_rate", "fast") == (
        "crosscoders.l1.learning_rate: found 'fast' (text), allowed: a valid number"
    )


# One value at a time: key, what was found, what is allowed.

ONE_VALUE = {
    "number as text": ("pair.layer", "1", "found '1' (text), allowed: a valid integer (without quotes; what is nested in --config is text"),
    "fraction for an integer": ("crosscoders.topk.k", 8.5, "found 8.5 (number), allowed: a valid integer"),
    "true for an integer": ("pair.layer", True, "found True (true/false), allowed: a valid integer"),
    "one seed without brackets": ("seeds", 0, "found 0 (integer), allowed: a valid list"),
    "one file without brackets": ("datasets.pages.files", "pages.txt", "found 'pages.txt' (text), allowed: a valid list"),
    "section left empty": ("tokens", None, "found None (nothing), allowed: "),
    "negative layer": ("pair.layer", -1, "found -1 (integer), allowed: greater than or equal to 0"),
    "no tokens": ("datasets.pages.tokens", 0, "found 0 (integer), allowed: greater than 0"),
    "context of one": ("tokens.context", 1, "found 1 (integer), allowed: greater than 1"),
    "all for validation": ("datasets.pages.validation_fraction", 1.0, "found 1.0 (number), allowed: less than 1"),
    "no seeds": ("seeds", [], "found [] (list)"),
    "no data sets": ("datasets", {}, "found {} (section)"),
    "no crosscoders": ("crosscoders", {}, "found {} (section)"),
    "name that is no file name": (
        "pair.name",
        "my/pair",
        "found 'my/pair' (text), allowed: lower-case letters, digits, '-' and '_', a letter or digit first",
    ),
    "cut sha256": ("pair.base.package.sha256", "abc", "found 'abc' (text), allowed: 64 digits from 0 to 9 and a to f"),
    "package that is none": ("pair.base.package.name", "a b", "found 'a b' (text), allowed: letters, digits, '.', '_' and '-'"),
    "pair left empty": ("pair", None, "found None (nothing), allowed: a section"),
    "crosscoder left empty": ("crosscoders.l1", None, "found None (nothing), allowed: a section"),
    "data sets as a list": ("datasets", [], "found [] (list), allowed: a section"),
    "unknown kind of text": ("datasets.pages.kind", "books", "found 'books' (text), allowed: 'documents' or 'chats'"),
    "unknown normalisation": (
        "crosscoders.topk.normalisation.kind",
        "both",
        "found 'both' (text), allowed: 'none', 'per_model' or 'shared'",
    ),
    "unknown loss": ("crosscoders.topk.loss", "topk", "found 'topk', allowed: batchtopk, l1"),
    "few blocks": ("latent_scaling.bootstrap.blocks", 9, "found 9 (integer), allowed: greater than or equal to 10"),
    "no quantiles": ("examples.quantiles", [], "found [] (list)"),
    "cosine that nothing exceeds": ("twins.cosine_above", 1.0, "found 1.0 (number), allowed: less than 1"),
    "infinite learning rate": ("crosscoders.topk.learning_rate", math.inf, "found inf (number), allowed: a finite number"),
    "infinite start norm": ("crosscoders.topk.init_norm", math.inf, "found inf (number), allowed: a finite number"),
    "infinite target": ("crosscoders.topk.normalisation.target_rms", math.inf, "found inf (number), allowed: a finite number"),
    "weight decay that is no number": ("pair.chat.finetune.weight_decay", math.nan, "found nan (number), allowed: "),
}


@pytest.mark.parametrize(("path", "value", "message"), ONE_VALUE.values(), ids=ONE_VALUE.keys())
def test_bad_value_is_refused_with_key_found_and_allowed(path, value, message):
    line = refusal_of(path, value)
    assert line.startswith(f"{path}: {message}")


@pytest.mark.parametrize("key", ["pair", "datasets", "crosscoders", "pair.layer", "datasets.pages.tokens", "crosscoders.l1.l1_coefficient"])
def test_missing_key_is_named(key):
    assert refusal_of(key, DELETE) == f"{key}: missing"


def test_missing_loss_is_named_with_the_allowed_ones():
    assert refusal_of("crosscoders.topk.loss", DELETE) == "crosscoders.topk.loss: missing, allowed: batchtopk, l1"


def test_integer_is_accepted_where_a_number_is_allowed():
    assert load(changed("crosscoders.l1.l1_coefficient", 1)).crosscoders["l1"].l1_coefficient == 1.0


# Combinations.


def test_model_with_two_sources_is_refused():
    line = refusal_of("pair.base.folder", "models/base")
    assert line == "pair.base: found folder and package, give exactly one of hub, folder, package, random, finetune, planted"


def test_model_without_a_source_is_refused():
    assert refusal_of("pair.base", {}) == "pair.base: found none, give exactly one of hub, folder, package, random, finetune, planted"


def test_data_set_with_two_sources_is_refused():
    line = refusal_of("datasets.talk.files", ["talk.jsonl"])
    assert line == "datasets.talk: found hub and files, give exactly one of hub, files, package"


def test_data_set_without_a_source_is_refused():
    assert refusal_of("datasets.talk.hub", DELETE) == "datasets.talk: found none, give exactly one of hub, files, package"


def test_base_as_finetune_is_refused():
    line = refusal_of("pair.base", SMALL["pair"]["chat"])
    assert line.startswith("pair") and "found finetune, only the chat model can be made from the base" in line


def test_planted_pair_has_no_chat_model_to_ask():
    planted = {"planted": {"seed": 0, "concepts": {"chat_only": 3}}}
    values = changed("scoring", {}, changed("pair.chat", planted))
    [line] = refusal(values)
    assert line == "pair.chat: found planted, which is no model; leave out causal, behaviour and steering"
    alone = changed("causal", DELETE, changed("behaviour", DELETE, values))
    assert load(alone).pair.chat.kind == "planted"
    assert refusal_of("scoring", DELETE, alone) == "scoring: found nothing; it goes with pair.chat.planted"
    assert refusal_of("scoring", {}) == "scoring: found a section; it goes with pair.chat.planted"


@pytest.mark.parametrize(("path", "format"), [("datasets.pages", "messages"), ("datasets.talk", "text")])
def test_format_of_another_kind_is_refused(path, format):
    line = refusal_of(f"{path}.format", format)
    assert line.startswith(f"{path}: format: found '{format}' with kind ") and "allowed: " in line


@pytest.mark.parametrize(("name", "found"), [("pages", "documents"), ("nowhere", "no data set")])
def test_finetune_on_anything_but_chats_is_refused(name, found):
    line = refusal_of("pair.chat.finetune.data", {name: 100})
    assert line == f"pair.chat.finetune.data.{name}: found {found}, allowed: talk"


@pytest.mark.parametrize(("name", "found"), [("pages", "documents"), ("nowhere", "no data set")])
def test_causal_effect_on_anything_but_chats_is_refused(name, found):
    assert refusal_of("causal.datasets", ["talk", name]) == f"causal.datasets.{name}: found {found}, allowed: talk"


def test_data_set_that_stands_twice_in_causal_is_refused():
    assert refusal_of("causal.datasets", ["talk", "talk"]).startswith(
        "causal.datasets: found ['talk', 'talk'], each data set may stand once"
    )


def test_answers_without_room_for_a_prompt_are_refused():
    assert refusal_of("causal.answer_tokens", 128) == "causal.answer_tokens: found 128, must be below tokens.context 128"
    load(changed("causal", {"datasets": ["talk"], "answer_tokens": 128, "answers": "dataset"}))


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        ({"strengths": []}, "steering.strengths: found [] (list), allowed: "),
        ({"strengths": [1.0, 0.0]}, "steering: strengths: found [1.0, 0.0], allowed: different ones, without 0"),
        ({"strengths": [1.0, 1.0]}, "steering: strengths: found [1.0, 1.0], allowed: different ones, without 0"),
        ({"strengths": [float("inf")]}, "steering.strengths.0: found inf"),
        ({"latents": {"nowhere": [3]}}, "steering.latents: found nowhere, allowed: l1, topk"),
        ({"latents": {"topk": [3, 3]}}, "steering.latents.topk: found [3, 3], each latent may stand once"),
        ({"latents": {"topk": [-1]}}, "steering.latents.topk.0: found -1"),
    ],
)
def test_steering_that_can_not_be_is_refused(steering, said):
    assert refusal_of("steering", steering).startswith(said)


def test_steering_needs_requests():
    line = refusal_of("steering", {}, changed("behaviour", DELETE))
    assert line == "steering: found without behaviour, which names the requests; give behaviour.requests, too"
    assert load(changed("steering", {})).steering.latents == {}


def test_causal_section_may_be_left_out():
    assert load(changed("causal", DELETE)).causal is None


def test_expansion_together_with_latents_is_refused():
    line = refusal_of("crosscoders.topk.latents", 64)
    assert line == "crosscoders.topk: found expansion and latents, give exactly one of expansion, latents"


def test_crosscoder_without_a_size_is_refused():
    assert refusal_of("crosscoders.l1.latents", DELETE) == "crosscoders.l1: found none, give exactly one of expansion, latents"


def test_fewer_tokens_than_one_batch_are_refused():
    assert refusal_of("crosscoders.l1.tokens", 255) == "crosscoders.l1: tokens: found 255, less than one batch of 256"


@pytest.mark.parametrize(
    ("k_max", "steps", "key"),
    [(16, 0, "k_max"), (8, 10, "k_max"), (None, 10, "k_annealing_steps"), (16, 101, "k_annealing_steps")],
    ids=["no steps to anneal in", "nothing to anneal", "no start", "longer than the training"],
)
def test_impossible_annealing_of_k_is_refused(k_max, steps, key):
    topk = {**SMALL["crosscoders"]["topk"], "k_max": k_max, "k_annealing_steps": steps}
    assert refusal_of("crosscoders.topk", topk).startswith(f"crosscoders.topk: {key}: found {k_max if key == 'k_max' else steps}")


def test_annealing_of_k_within_the_training_is_accepted():
    topk = {**SMALL["crosscoders"]["topk"], "k_max": 16, "k_annealing_steps": 100}
    assert load(changed("crosscoders.topk", topk)).crosscoders["topk"].k_max == 16


def test_k_above_the_number_of_latents_is_refused():
    topk = {**SMALL["crosscoders"]["topk"], "latents": 7}
    del topk["expansion"]
    line = refusal_of("crosscoders.topk", topk)
    assert line.startswith("crosscoders.topk: k: found 8") and "7" in line


@pytest.mark.parametrize("start", [100, 1000])
def test_threshold_that_starts_after_the_training_is_refused(start):
    line = refusal_of("crosscoders.topk.threshold_start_step", start)
    assert line.startswith(f"crosscoders.topk: threshold_start_step: found {start}, must be below the 100 training steps")


def test_threshold_that_starts_at_the_last_step_is_accepted():
    assert load(changed("crosscoders.topk.threshold_start_step", 99)).crosscoders["topk"].steps == 100


def test_range_is_two_numbers():
    for value in ([0.1, 0.2, 0.3], [0.1], 0.3):
        assert refusal_of("classes.shared_between", value) == f"classes: shared_between: found {value}, allowed: two numbers in brackets"


def test_name_that_is_none_is_named():
    values = changed("crosscoders.L 1", SMALL["crosscoders"]["l1"])
    assert refusal(values)[0].startswith("crosscoders.L 1: found 'L 1' (text), allowed: lower-case letters")


@pytest.mark.parametrize(
    "classes",
    [
        {"base_only_below": 0.4},
        {"base_only_below": 0.5},
        {"shared_between": [0.6, 0.4]},
        {"shared_between": [0.5, 0.5]},
        {"shared_between": [0.4, 0.95]},
        {"chat_only_above": 0.6},
    ],
    ids=str,
)
def test_overlapping_classes_are_refused_and_shown(classes):
    line = refusal_of("classes", classes)
    [found] = classes.values()
    assert line.startswith("classes: ") and "base_only_below < shared_between < chat_only_above" in line
    assert all(str(value) in line for value in (found if isinstance(found, list) else [found]))


def test_classes_in_order_are_accepted():
    classes = load(changed("classes", {"base_only_below": 0.2, "shared_between": [0.3, 0.7], "chat_only_above": 0.8})).classes
    assert classes.shared_between == (0.3, 0.7)


@pytest.mark.parametrize("quantiles", [[0.5, 0.25, 1.0], [0.5, 0.5, 1.0], [0.25, 0.5], [0.0, 1.0]], ids=str)
def test_quantiles_that_leave_gaps_or_overlap_are_refused(quantiles):
    line = refusal_of("examples.quantiles", quantiles)
    assert line == f"examples: quantiles: found {quantiles}, allowed: increasing, above 0, the last one 1"


def test_repeated_seed_is_refused():
    assert refusal_of("seeds", [0, 1, 0]) == "seeds: found [0, 1, 0], each seed may stand once"


# What the rest of the program asks of a configuration.


def test_packages_lists_every_wheel():
    package = {"name": "texts", "version": "2.1", "sha256": "b" * 64, "file": "*.txt"}
    pages = {**SMALL["datasets"]["pages"], "files": None, "package": package}
    packages = load(changed("datasets.pages", pages)).packages()
    assert {key: package.file for key, package in packages.items()} == {"some-model==1.0": "model.gguf", "texts==2.1": "*.txt"}


def test_number_of_latents_is_given_or_a_multiple_of_the_width():
    crosscoders = load(SMALL).crosscoders
    assert crosscoders["topk"].n_latents(d_model=32) == 128
    assert crosscoders["l1"].n_latents(d_model=32) == 96


def test_crosscoder_settings_reads_one_entry():
    assert crosscoder_settings(SMALL["crosscoders"]["l1"]) == load(SMALL).crosscoders["l1"]


def test_settings_cannot_be_changed():
    config = load(SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        config.seeds = [7]


def test_loading_twice_gives_equal_settings():
    config = load(SMALL)
    assert load(config.model_dump(by_alias=True)) == config
