"""Settings as a script gets them: typed, and no more than its rule declares."""

import pytest
import yaml
from conftest import ROOT, TINY
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.config import BatchTopKSettings, Config, load
from crossdiff.config.declared import flatten, only
from crossdiff.errors import UserError

CONFIG = load(yaml.safe_load((ROOT / TINY).read_text())).seen_by({})
KEYS = sorted(flatten("", CONFIG.model_dump(mode="json", by_alias=True)))


def declared(*keys: str) -> Config:
    return only(CONFIG, set(keys), "find_twins")


def at(config: Config, key: str) -> object:
    """What a config has under a full key, asked for part by part as a script does."""
    place: object = config
    for part in key.split("."):
        place = (
            place[part] if isinstance(place, dict) else getattr(place, "origin" if part == "from" else part)
        )
    return place


@given(st.sets(st.sampled_from(KEYS), min_size=1, max_size=8), st.sampled_from(KEYS))
def test_declared_keys_have_their_values_and_no_other_has_one(keys: set[str], asked: str) -> None:
    part = declared(*keys)
    for key in keys:
        assert at(part, key) == at(CONFIG, key)
    if asked not in keys:
        with pytest.raises(UserError, match="rule find_twins: its script asks for"):
            at(part, asked)


def test_undeclared_key_names_the_rule_the_key_and_the_line_to_add() -> None:
    with pytest.raises(UserError) as caught:
        _ = declared("classes.chat_only_above").classes.top
    said = (
        "rule find_twins: its script asks for classes.top, which the rule does not declare; "
        'add settings("classes.top") to its params'
    )
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("key", "ask"),
    [
        ("twins.cosine_above", lambda config: config.twins.cosine_above),
        ("pair.chat.hub", lambda config: config.pair.chat.hub),
        ("datasets.readme", lambda config: config.datasets["readme"]),
        ("datasets.readme", lambda config: config.datasets.get("readme")),
        ("datasets.readme", lambda config: "readme" in config.datasets),
        ("pair.chat.finetune.from", lambda config: config.pair.chat.finetune.origin),
    ],
)
def test_undeclared_section_entry_and_alias_are_named_as_in_the_config(key, ask) -> None:
    with pytest.raises(UserError, match=f"asks for {key},"):
        ask(
            declared(
                "pair.layer",
                "datasets.requests.kind",
                "pair.chat.finetune.epochs" if "from" in key else "pair.layer",
            )
        )


def test_whole_section_is_given_as_it_is() -> None:
    keys = flatten("crosscoders.batchtopk", CONFIG.crosscoders["batchtopk"].model_dump(mode="json"))
    part = declared(*keys).crosscoders["batchtopk"]
    assert part is CONFIG.crosscoders["batchtopk"]
    assert isinstance(part, BatchTopKSettings)


def test_part_of_a_section_keeps_its_type_and_leaves_the_whole_alone() -> None:
    part = declared("causal.seed").causal
    assert type(part) is type(CONFIG.causal)
    assert part.seed == CONFIG.causal.seed
    assert CONFIG.causal.conversations == 6


def test_section_that_the_config_leaves_out_is_nothing() -> None:
    assert declared("explanations").explanations is None


def test_attribute_that_no_section_has_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError):
        _ = CONFIG.no_such_key
    with pytest.raises(AttributeError):
        _ = declared("causal.seed").causal.no_such_key
