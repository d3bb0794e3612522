"""The configuration: what it refuses. Each refusal is one line: the key, what was found, what is allowed."""

import math

import pytest
import yaml
from helpers_config import DELETE, SHIPPED, SMALL, changed, refusal, refusal_of, settings_keys
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crossdiff.config import Tokens, crosscoder_settings, load

ALLOWED_LOSSES = (
    "batchtopk, bridge, dedicated, dedicated_l1, delta, designated, designated_l1, difference, jumprelu, l1, "
    "matryoshka"
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_loads(path):
    config = load(yaml.safe_load(path.read_text()))
    assert "batchtopk" in config.crosscoders


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
    assert any(
        line.startswith(f"{name}x: unknown key; did you mean {path[-1]}? allowed: ")
        for line in refusal(values)
    )


def test_unknown_key_unlike_any_other_lists_the_allowed_ones():
    line = refusal_of("tokens.zzz", 1)
    assert line == "tokens.zzz: unknown key; allowed: " + ", ".join(Tokens.model_fields)


@pytest.mark.parametrize("name", ["l1", "batchtopk"])
def test_misspelt_key_of_a_data_set_named_like_a_loss_suggests_data_set_keys(name):
    values = changed(f"datasets.{name}", SMALL["datasets"]["pages"])
    assert "did you mean validation_fraction?" in refusal_of(
        f"datasets.{name}.validation_fracton", 0.5, values
    )


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
        f"crosscoders.l1.learning_rate: found '{text}' (text), allowed: "
        f"a valid number (YAML reads {text} as text; write "
    )
    written = yaml.safe_load(line.rpartition("write ")[2].removesuffix(")"))
    assert isinstance(written, float) and math.isclose(written, float(text))


def test_whole_number_that_yaml_reads_as_text_is_shown_as_it_must_be_written():
    line = refusal_of("crosscoders.l1.tokens", "2e6")
    assert line.startswith(
        "crosscoders.l1.tokens: found '2e6' (text), allowed: a valid integer (YAML reads 2e6 as text; write "
    )
    written = yaml.safe_load(line.rpartition("write ")[2].removesuffix(")"))
    assert load(changed("crosscoders.l1.tokens", written)).crosscoders["l1"].tokens == 2_000_000


def test_text_that_is_no_number_gets_no_hint():
    assert refusal_of("crosscoders.l1.learning_rate", "fast") == (
        "crosscoders.l1.learning_rate: found 'fast' (text), allowed: a valid number"
    )


# One value at a time: key, what was found, what is allowed.

ONE_VALUE = {
    "number as text": (
        "pair.layer",
        "1",
        "found '1' (text), allowed: a valid integer (without quotes; what is nested in --config is text",
    ),
    "fraction for an integer": ("crosscoders.topk.k", 8.5, "found 8.5 (number), allowed: a valid integer"),
    "true for an integer": ("pair.layer", True, "found True (true/false), allowed: a valid integer"),
    "one seed without brackets": ("seeds", 0, "found 0 (integer), allowed: a valid list"),
    "one file without brackets": (
        "datasets.pages.files",
        "pages.txt",
        "found 'pages.txt' (text), allowed: a valid list",
    ),
    "negative layer": ("pair.layer", -1, "found -1 (integer), allowed: greater than or equal to 0"),
    "no tokens": ("datasets.pages.tokens", 0, "found 0 (integer), allowed: greater than 0"),
    "context of one": ("tokens.context", 1, "found 1 (integer), allowed: greater than 1"),
    "all for validation": (
        "datasets.pages.validation_fraction",
        1.0,
        "found 1.0 (number), allowed: less than 1",
    ),
    "no seeds": ("seeds", [], "found [] (list)"),
    "no data sets": ("datasets", {}, "found {} (section)"),
    "no crosscoders": ("crosscoders", {}, "found {} (section)"),
    "name that is no file name": (
        "pair.name",
        "my/pair",
        "found 'my/pair' (text), allowed: lower-case letters, digits, '-' and '_', a letter or digit first",
    ),
    "cut sha256": (
        "pair.base.package.sha256",
        "abc",
        "found 'abc' (text), allowed: 64 digits from 0 to 9 and a to f",
    ),
    "package that is none": (
        "pair.base.package.name",
        "a b",
        "found 'a b' (text), allowed: letters, digits, '.', '_' and '-'",
    ),
    "crosscoder left empty": ("crosscoders.l1", None, "found None (nothing), allowed: a section"),
    "data sets as a list": ("datasets", [], "found [] (list), allowed: a section"),
    "unknown kind of text": (
        "datasets.pages.kind",
        "books",
        "found 'books' (text), allowed: 'documents' or 'chats'",
    ),
    "unknown normalisation": (
        "crosscoders.topk.normalisation.kind",
        "both",
        "found 'both' (text), allowed: 'none', 'per_model' or 'shared'",
    ),
    "unknown loss": ("crosscoders.topk.loss", "topk", f"found 'topk', allowed: {ALLOWED_LOSSES}"),
    "few blocks": (
        "latent_scaling.bootstrap.blocks",
        9,
        "found 9 (integer), allowed: greater than or equal to 10",
    ),
    "no quantiles": ("examples.quantiles", [], "found [] (list)"),
    "cosine that nothing exceeds": ("twins.cosine_above", 1.0, "found 1.0 (number), allowed: less than 1"),
    "infinite learning rate": (
        "crosscoders.topk.learning_rate",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite start norm": (
        "crosscoders.topk.init_norm",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite target": (
        "crosscoders.topk.normalisation.target_rms",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite weight decay": (
        "pair.chat.finetune.weight_decay",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite weight of the auxiliary loss": (
        "crosscoders.topk.auxiliary_coefficient",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite clip": (
        "crosscoders.topk.gradient_clip",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "infinite bound of nu": (
        "latent_scaling.nu_error_below",
        math.inf,
        "found inf (number), allowed: a finite number",
    ),
    "empty path": ("behaviour.requests", "", "found '' (text), allowed: text that is not empty"),
    "empty file of a wheel": (
        "pair.base.package.file",
        "",
        "found '' (text), allowed: text that is not empty",
    ),
    "weight decay that is no number": (
        "pair.chat.finetune.weight_decay",
        math.nan,
        "found nan (number), allowed: ",
    ),
}


@pytest.mark.parametrize(("path", "value", "message"), ONE_VALUE.values(), ids=ONE_VALUE.keys())
def test_bad_value_is_refused_with_key_found_and_allowed(path, value, message):
    line = refusal_of(path, value)
    assert line.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "key",
    [
        "datasets",
        "crosscoders",
        "pair.name",
        "datasets.pages.tokens",
        "crosscoders.l1.l1_coefficient",
    ],
)
def test_missing_key_is_named(key):
    assert refusal_of(key, DELETE) == f"{key}: missing"


def test_missing_loss_is_named_with_the_allowed_ones():
    assert (
        refusal_of("crosscoders.topk.loss", DELETE)
        == f"crosscoders.topk.loss: missing, allowed: {ALLOWED_LOSSES}; or give import"
    )


def test_integer_is_accepted_where_a_number_is_allowed():
    assert load(changed("crosscoders.l1.l1_coefficient", 1)).crosscoders["l1"].l1_coefficient == 1.0


# What the rest of the program asks of a configuration.


def test_packages_lists_every_wheel():
    package = {"name": "texts", "version": "2.1", "sha256": "b" * 64, "file": "*.txt"}
    pages = {**SMALL["datasets"]["pages"], "files": None, "package": package}
    packages = load(changed("datasets.pages", pages)).packages()
    assert {key: package.file for key, package in packages.items()} == {
        "some-model==1.0": "model.gguf",
        "texts==2.1": "*.txt",
    }


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
    assert load(config.model_dump(by_alias=True, exclude_none=True)) == config
