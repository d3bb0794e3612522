"""What ``activations: {store: none}`` asks of the rest of a config."""

import pytest
import yaml
from conftest import ROOT, TINY

from crossdiff.config import Config, load, sampled
from crossdiff.errors import UserError


def tiny(activations: dict[str, object], path: str = TINY, **crosscoder: object) -> Config:
    """The tiny config without caches; ``crosscoder`` changes the one with L1."""
    values = yaml.safe_load((ROOT / path).read_text())
    values["activations"] = values.get("activations", {}) | {"store": "none"} | activations
    if crosscoder:
        values["crosscoders"]["l1"] |= crosscoder
    return load(values)


def test_the_sample_is_divided_as_the_training_tokens_are() -> None:
    config = tiny({"sample_tokens": 5000})
    assert {name: sampled(config, name) for name in config.datasets} == {"readme": 1666, "requests": 3333}


@pytest.mark.parametrize(
    ("activations", "crosscoder", "line"),
    [
        (
            {"sample_tokens": 18_000},
            {},
            "activations.sample_tokens: found 18000, must be below the 18000 training tokens of all data "
            "sets; lower it, or use store: all",
        ),
        (
            {"sample_tokens": 2},
            {},
            "activations.sample_tokens: found 2, which leaves none for datasets.readme; raise it",
        ),
        (
            {"sample_tokens": 5000},
            {"batch": 3601},
            "crosscoders.l1.batch: found 3601, must be at most 3600 with activations.store: none, where a "
            "pool has buffer_tokens or 1/5 of the training tokens; lower it, or raise buffer_tokens or the "
            "tokens of datasets",
        ),
        (
            {"sample_tokens": 5000},
            {"buffer_tokens": 200},
            "crosscoders.l1.batch: found 256, must be at most 200 with activations.store: none, where a "
            "pool has buffer_tokens or 1/5 of the training tokens; lower it, or raise buffer_tokens or the "
            "tokens of datasets",
        ),
    ],
)
def test_what_can_not_train_without_caches_is_refused(
    activations: dict[str, object], crosscoder: dict[str, object], line: str
) -> None:
    with pytest.raises(UserError) as raised:
        tiny(activations, **crosscoder)
    assert line in str(raised.value)


def test_planted_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="found none, allowed with planted concepts: all; they exist only in"):
        tiny({"sample_tokens": 5000}, "configs/planted-tiny.yaml")
