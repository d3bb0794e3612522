"""Layers whose caches are missing are grouped by model and shard."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossdiff.workflow import harvests
from crossdiff.workflow.harvests import Together, missing, together

MAIN, STEP = SimpleNamespace(is_main_process=True), SimpleNamespace(is_main_process=False)


def cache(model: str, layer: int, shard: str = "0000", folder: str = "chat/web.train") -> str:
    return f"results/activations/{model}/layer{layer}/{folder}/{shard}.h5"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*caches: str, record: bool = True) -> None:
    for path in map(Path, caches):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if record:
            path.with_name(path.name + ".record.json").touch()


EVERY = [
    cache(model, layer, shard) for model in ("a", "b.1") for layer in (8, 13, 2) for shard in ("0000", "0001")
]


def test_all_layers_are_missing_together_before_the_first_run() -> None:
    [(layers, shards)] = missing(EVERY).items()
    assert layers == (2, 8, 13)
    assert shards == {
        (model, "chat/web.train", shard) for model in ("a", "b.1") for shard in ("0000", "0001")
    }


def test_layer_that_is_missing_alone_is_left_to_the_ordinary_rule() -> None:
    make(*(path for path in EVERY if "layer13" not in path))
    assert missing(EVERY) == {}


def test_each_shard_of_each_model_has_its_own_missing_layers() -> None:
    make(cache("a", 8, "0001"), cache("b.1", 8), cache("b.1", 13))
    assert missing(EVERY) == {
        (2, 8, 13): {("a", "chat/web.train", "0000"), ("b.1", "chat/web.train", "0001")},
        (2, 13): {("a", "chat/web.train", "0001")},
    }


def test_cache_that_was_removed_as_configured_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may need it. A job of one cache makes it again, whose record Snakemake can compare."""
    gone = {cache("a", layer) for layer in (8, 13, 2)}
    monkeypatch.setattr(harvests, "removed", lambda path: object() if path in gone else None)
    [(layers, shards)] = missing(EVERY).items()
    assert layers == (2, 8, 13)
    assert ("a", "chat/web.train", "0000") not in shards and len(shards) == 3


def test_cache_without_a_record_counts_as_missing() -> None:
    make(cache("a", 8), cache("a", 13), record=False)
    make(cache("a", 2))
    assert missing(EVERY[:6:2]) == {(8, 13): {("a", "chat/web.train", "0000")}}


def test_rule_matches_its_shards_and_no_others() -> None:
    make(cache("a", 8, "0001"), cache("b.1", 8), cache("b.1", 13))
    by_layers = {rule.layers: rule for rule in together(MAIN, EVERY)}
    assert [rule.name for rule in by_layers.values()] == ["harvest_layers_2_8_13", "harvest_layers_2_13"]
    matched = {layers: {path for path in EVERY if matches(rule, path)} for layers, rule in by_layers.items()}
    assert matched == {
        (2, 8, 13): {cache("a", layer) for layer in (2, 8, 13)}
        | {cache("b.1", layer, "0001") for layer in (2, 8, 13)},
        (2, 13): {cache("a", layer, "0001") for layer in (2, 13)},
    }
    assert not matches(by_layers[2, 8, 13], cache("bx1", 8, "0001"))


def test_rule_matches_exactly_the_numbers_of_many_shards() -> None:
    numbers = [f"{number:04d}" for number in (0, 7, 9, 10, 11, 123, 1230)]
    rule = Together((8, 13), {("a", "chat/web.train", number) for number in numbers})
    matched = [f"{n:04d}" for n in range(2000) if matches(rule, cache("a", 8, f"{n:04d}"))]
    assert matched == numbers
    assert not matches(rule, cache("a", 8, "0000", "chat/web.validation"))


def matches(rule: Together, path: str) -> bool:
    """Whether one of the rule's outputs is ``path``, as Snakemake looks it up."""
    pattern = "results/activations/{model}/layer{layer}/{folder}/{shard}.h5"
    return any(
        re.match(
            re.escape(output)
            .replace(r"\{model\}", f"(?P<model>{rule.models})")
            .replace(r"\{folder\}", "(?P<folder>.+)")
            .replace(r"\{shard\}", r"(?P<shard>\d{4})")
            + "$",
            path,
        )
        for output in rule.each(pattern)
    )


def test_files_and_words_of_a_rule() -> None:
    rule = Together((8, 13, 18))
    assert rule.each("{model}/layer{layer}/x") == [f"{{model}}/layer{layer}/x" for layer in (8, 13, 18)]
    assert rule.all("logs/layer{layer}/{shard}.log") == "logs/layer8_13_18/{shard}.log"
    assert rule.told == "layers 8, 13 and 18"


def test_process_of_a_job_has_the_rules_that_it_was_started_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if other jobs have written caches meanwhile, and for a shard that it looks up itself."""
    asked = "harvest_layers_2_13:model=a,tokenizer=chat,dataset=web,split=train,shard=0000"
    step = ["snakemake", "--target-jobs", asked, "--allowed-rules", "harvest_layers_2_13", "--force"]
    monkeypatch.setattr(sys, "argv", step)
    make(*EVERY)
    [rule] = together(STEP, EVERY)
    assert (rule.name, rule.layers) == ("harvest_layers_2_13", (2, 13))
    assert matches(rule, cache("a", 2)) and not matches(rule, cache("a", 8))
    monkeypatch.setattr(sys, "argv", ["snakemake", "--allowed-rules", "harvest_activations"])
    assert together(STEP, EVERY) == []
