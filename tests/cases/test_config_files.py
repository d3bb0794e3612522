"""Configs as users write them: each is read as meant, or refused in one line when it is read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import TINY, Checkout
from helpers_chain import FIGURE, jobs, root  # noqa: F401
from helpers_config import SHIPPED, SMALL, changed, refusal, refusal_of
from helpers_lines import line_of

from crossdiff.config import load
from crossdiff.config.yaml_files import parse_yaml, read_yaml
from crossdiff.models.pair import check_pair
from crossdiff.models.refusals import read_requests
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.texts.first_record import check_fields

FORECAST = ("plan", "--card", "h100", "--configfile")


# A key that stands twice.

TWICE = {
    "at the top": ("seeds: [0]\nseeds: [1]\n", "seeds", "1 and 2"),
    "in a section": ("a:\n  l1: {}\n  topk: {}\n  l1: {}\n", "a.l1", "2 and 4"),
    "three times": ("k: 1\nk: 2\nk: 3\n", "k", "1, 2 and 3"),
    "in braces": ("a: {k: 1,\n    k: 2}\n", "a.k", "1 and 2"),
    "in a list": ("a:\n- k: 1\n- k: 1\n  k: 2\n", "a[1].k", "3 and 4"),
    "with and without quotes": ('k: 1\n"k": 2\n', "k", "1 and 2"),
    "two words for one value": ("a:\n  yes: 1\n  on: 2\n", "a.yes", "2 and 3"),
    "next to a merge": ("b: &b {k: 1}\na:\n  <<: *b\n  k: 2\n  k: 3\n", "a.k", "4 and 5"),
}


@pytest.mark.parametrize("name", TWICE)
def test_key_that_stands_twice_is_refused_with_its_lines(name):
    text, key, lines = TWICE[name]
    assert (
        line_of(lambda: parse_yaml(text, "mine.yaml"))
        == f"mine.yaml: {key} is given more than once, in lines {lines}; keep one"
    )


def test_key_that_stands_twice_in_json_is_refused_too(tmp_path: Path):
    (tmp_path / "mine.json").write_text('{\n\t"seeds": [0],\n\t"seeds": [1]\n}')
    assert "seeds is given more than once, in lines 2 and 3" in line_of(
        lambda: read_yaml(tmp_path / "mine.json")
    )


@pytest.mark.parametrize(
    "text",
    [
        "b: &b {k: 1, m: 2}\na: {<<: *b, k: 3}\nc: {<<: *b}\n",
        "b: &b {k: 1}\nd: &d {<<: *b, k: 2}\ne: {<<: [*d, *b], k: 3}\n",
        "a: &a [1, {k: 1}]\nb: *a\nc: *a\n",
        "a: {k: 1}\nb: {k: 1}\n1: x\n'1': y\n",
        "a: &a {self: *a}\nb: 1\n",
        "# nothing\n",
    ],
)
def test_anchors_merges_and_equal_keys_of_other_sections_are_fine(text):
    found, expected = parse_yaml(text, "mine.yaml"), yaml.safe_load(text)
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_read_word_for_word(path):
    assert read_config([path]) == yaml.safe_load(path.read_text())


def test_byte_order_mark_before_a_config_is_not_part_of_its_first_key(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseeds: [0]\n")
    assert read_config([tmp_path / "mine.yaml"]) == {"seeds": [0]}


def test_config_in_another_encoding_is_one_line(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes("seeds: [0] # f\xfcr".encode("latin-1"))
    assert "mine.yaml: can't be read ('utf-8' codec" in line_of(lambda: read_config([tmp_path / "mine.yaml"]))


def test_request_that_stands_twice_is_not_lost(tmp_path: Path):
    (tmp_path / "requests.yaml").write_text("phrasings: [a]\nphrasings: [b]\n")
    assert "phrasings is given more than once, in lines 1 and 2" in line_of(
        lambda: read_requests(tmp_path / "requests.yaml")
    )


@pytest.mark.parametrize("option", [True, False], ids=["--configfile", "config.yaml"])
def test_snakemake_does_not_take_the_last_of_two(checkout: Checkout, option: bool):
    text = (checkout.folder / TINY).read_text()
    place = checkout.folder / ("mine.yaml" if option else "config.yaml")
    place.write_text(text + "seeds: [3]\n")
    lines = [
        number for number, line in enumerate(place.read_text().splitlines(), 1) if line.startswith("seeds")
    ]
    result = checkout.snakemake("-n", *(["--configfile", "mine.yaml"] if option else []))
    assert result.returncode == 1
    assert f"{place.name}: seeds is given more than once, in lines {lines[0]} and {lines[1]}" in result.stdout
    assert main_in(checkout, "plan", "--configfile", place.name) == 2


def main_in(checkout: Checkout, *arguments: str) -> int:
    return checkout.crossdiff(*arguments).returncode


# Sections that are left empty.


@pytest.mark.parametrize(
    "key", ["steering", "tokens", "activations", "classes", "examples", "report", "latent_scaling.bootstrap"]
)
def test_empty_section_stands_for_its_defaults(key):
    assert load(changed(key, None)) == load(changed(key, {}))


def test_empty_steering_steers():
    config = load(changed("steering", None))
    assert config.steering is not None and config.steering.strengths == [-2.0, -1.0, 1.0, 2.0, 3.0]
    assert load(SMALL).steering is None


def test_empty_normalisation_of_a_crosscoder_stands_for_its_defaults():
    key = "crosscoders.topk.normalisation"
    assert load(changed(key, None)) == load(changed(key, {})) != load(SMALL)


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("causal", SMALL["causal"]),
        ("behaviour", SMALL["behaviour"]),
        ("explanations", {"model": {"folder": "judge"}}),
    ],
)
def test_null_in_a_second_config_switches_off_a_section_that_needs_a_key(tmp_path, key, section):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump(changed(key, section)))
    second.write_text(f"{key}: null")
    assert getattr(load(read_config([first])), key) is not None
    assert load(read_config([first, second])) == load(changed(key, None))
    assert getattr(load(read_config([first, second])), key) is None


def test_empty_section_below_another_that_needs_a_key_is_left_out():
    explanations = {"model": {"folder": "judge"}, "prices": None}
    assert load(changed("explanations", explanations)).explanations.prices is None


def test_sources_that_are_all_empty_are_one_line():
    assert refusal_of("pair.base", {"hub": None}).startswith("pair.base: found none, give exactly one of ")


def test_empty_section_of_alternatives_is_not_given():
    values = changed("datasets.pages.hub", None)
    assert load(values) == load(SMALL)


def test_empty_number_stays_nothing():
    assert load(changed("activations.max_norm_ratio", None)).activations.max_norm_ratio is None


# Names and words that YAML reads as something else.


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("no", 'found the name False, which YAML reads as true/false; write it in quotes: "no" or "off"'),
        ("on", 'found the name True, which YAML reads as true/false; write it in quotes: "yes" or "on"'),
        ("1", 'found the name 1, which YAML reads as integer; write it in quotes: "1"'),
        ("1.5", 'found the name 1.5, which YAML reads as number; write it in quotes: "1.5"'),
        ("null", 'found the name None, which YAML reads as nothing; write it in quotes: "None"'),
    ],
)
def test_name_that_is_no_text_is_to_be_quoted(written, read):
    [name] = yaml.safe_load(f"{written}: 1")
    values = changed("crosscoders", {**SMALL["crosscoders"], name: SMALL["crosscoders"]["l1"]})
    assert refusal(values) == [f"crosscoders: {read}"]
    [line] = [
        line for line in refusal(changed("pair.chat.finetune.data", {name: 1000})) if "the name" in line
    ]
    assert line == f"pair.chat.finetune.data: {read}"


def test_quoted_name_is_a_name():
    values = changed("crosscoders", {"no": SMALL["crosscoders"]["l1"], "1": SMALL["crosscoders"]["l1"]})
    assert sorted(load(values).crosscoders) == ["1", "no"]


@pytest.mark.parametrize(("key", "place"), [("on", "top level"), ("off", "tokens")])
def test_key_that_is_no_text_is_to_be_quoted(key, place):
    [read] = yaml.safe_load(f"{key}: 1")
    values = {**SMALL, read: 1} if place == "top level" else changed("tokens", {read: 1})
    [line] = refusal(values)
    assert line.startswith(
        f"{place}: found the key {read}, which YAML reads as true/false; write it in quotes"
    )


@pytest.mark.parametrize(
    ("key", "written", "quoted"),
    [
        ("pair.name", "no", '"no" or "off"'),
        ("pair.base.package.version", "1.10", '"1.1"'),
        ("datasets.talk.hub.revision", "1234567", '"1234567"'),
        ("datasets.talk.hub.revision", "2024-01-31", '"2024-01-31"'),
    ],
)
def test_value_that_should_be_text_is_to_be_quoted(key, written, quoted):
    line = refusal_of(key, yaml.safe_load(written))
    assert line.startswith(f"{key}: found ") and line.endswith(
        f"allowed: text (write it in quotes: {quoted})"
    )


# Sizes that can't be met.


def test_batch_above_all_token_budgets_is_told_when_the_config_is_read():
    values = changed("crosscoders.l1.batch", 8001, changed("crosscoders.l1.tokens", 90000))
    assert refusal(values) == [
        "crosscoders.l1.batch: found 8001, must be at most the 8000 training tokens of all data sets; "
        "lower it, or raise datasets.pages.tokens, datasets.talk.tokens"
    ]
    assert load(changed("crosscoders.l1.batch", 8000, values)).crosscoders["l1"].batch == 8000


@pytest.mark.parametrize("key", ["k", "k_max"])
def test_more_active_latents_than_latents_are_refused(key):
    topk = {**SMALL["crosscoders"]["topk"], "latents": 96, "k_annealing_steps": 10, "k_max": 9, key: 97}
    del topk["expansion"]
    assert (
        refusal_of("crosscoders.topk", topk)
        == f"crosscoders.topk: {key}: found 97, must be at most latents 96"
    )


@pytest.mark.parametrize(
    ("k", "k_max", "least"), [(8, None, 2), (9, None, 3), (1000, None, 250), (8, 1000, 250)]
)
def test_width_that_k_needs(k, k_max, least):
    topk = SMALL["crosscoders"]["topk"] | {"k": k, "k_max": k_max, "k_annealing_steps": 10 if k_max else 0}
    config = load(changed("crosscoders.topk", topk))
    assert config.least_width == least
    config.check_width(least)
    assert line_of(lambda: config.check_width(least - 1)).startswith("config: crosscoders.topk.k: found more")


def test_pair_that_is_too_narrow_is_refused_before_it_is_harvested():
    facts = {"d_model": 32, "layers": 3, "family": "llama", "few_bits": None, "vocabulary": 260, "rows": 260}
    facts |= {"moved": {}, "rowless": {}, "unknown": {}, "between_turns": None}
    check_pair(facts, facts, least_width=32)
    assert line_of(lambda: check_pair(facts, facts, least_width=250)) == (
        "crosscoders: d_model is 32, some k or share of latents needs 250 or more; "
        "lower k and k_max, or raise expansion"
    )


def test_k_that_is_too_large_is_told_by_plan_and_by_a_dry_run(checkout: Checkout):
    config = checkout.changed(TINY, {"crosscoders.batchtopk.k": 1000})
    said = (
        "crosscoders.batchtopk.k: found more active latents than there are: expansion 4 x d_model 32 is 128"
    )
    for result in (checkout.snakemake("-n", "--configfile", config), checkout.crossdiff(*FORECAST, config)):
        assert result.returncode == 1
        assert said in result.stdout


# The first record.


def dataset(path: Path, **keys: object):
    given = {"kind": "documents", "format": "text", "files": [str(path)]} | keys
    return {
        "pages": load(changed("datasets.pages", {**SMALL["datasets"]["pages"], **given})).datasets["pages"]
    }


def test_wrong_field_is_told_from_the_first_record(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('\n{"body": "a", "id": 1}\n{"body": "b"}\n')
    assert line_of(lambda: check_fields(dataset(path))) == (
        f"datasets.pages.field: the first record of {path} has no 'text'; "
        "found: body, id; name one of these fields"
    )
    check_fields(dataset(path, field="body"))


@pytest.mark.parametrize("odd", ['{"error": "rate limit"}', "{broken", '{"error": 1}\n{"error": 2}'])
def test_odd_records_before_good_ones_are_left_to_the_job(tmp_path: Path, odd: str):
    path = tmp_path / "p.jsonl"
    path.write_text(odd + '\n{"text": "a"}\n')
    check_fields(dataset(path))


@pytest.mark.parametrize(
    ("format", "field"),
    [("messages", "messages"), ("sharegpt", "conversations"), ("instruction", "instruction")],
)
def test_own_field_of_every_format_is_looked_for(tmp_path: Path, format: str, field: str):
    path = tmp_path / "p.jsonl"
    path.write_text('{"body": "a"}\n')
    said = line_of(lambda: check_fields(dataset(path, kind="chats", format=format)))
    assert f"the first record of {path} has no {field!r}; found: body;" in said


def test_columns_of_parquet_are_looked_at(tmp_path: Path):
    pq.write_table(pa.table({"messages": [[{"role": "user"}]]}), path := tmp_path / "p.parquet")
    check_fields(dataset(path, kind="chats", format="messages"))
    assert "has no 'turns'; found: messages" in line_of(
        lambda: check_fields(dataset(path, kind="chats", format="messages", field="turns"))
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", b'\xef\xbb\xbf{"text": "a"}'),
        ("p.jsonl", b'"a text alone"'),
        ("p.jsonl", b"{broken"),
        ("p.jsonl", b""),
        ("p.txt", b"text"),
        ("p.parquet", b"no parquet"),
        ("missing.jsonl", None),
    ],
)
def test_what_the_first_record_cannot_tell_is_left_to_the_job(
    tmp_path: Path, name: str, content: bytes | None
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    check_fields(dataset(tmp_path / name))


def test_dry_run_tells_a_wrong_field(checkout: Checkout):
    config = checkout.changed(TINY, {"datasets.readme.field": "body"})
    result = checkout.snakemake("-n", "--configfile", config)
    assert result.returncode == 1
    assert (
        "datasets.readme.field: the first record of tests/data/documents.jsonl has no 'body'" in result.stdout
    )
