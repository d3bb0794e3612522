"""Stored activations in a config: what is refused, which files they are, and what they take."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from helpers_stores import write_store

from crossdiff.config import Config, load
from crossdiff.config.local_files import local_files, missing_files
from crossdiff.errors import UserError
from crossdiff.provenance.planned_jobs import state
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.harvests import known_as
from crossdiff.workflow.shapes import shape

TINY = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
MODELS = ("tiny-base", "tiny-chat")
GIVEN: dict[str, Any] = {
    split: {model: f"{model}/{split}/layer_1_out" for model in MODELS} for split in ("train", "validation")
}
KEY = "datasets.readme.activations"


def values(given: object, **changes: Any) -> dict[str, Any]:
    datasets = TINY["datasets"] | {"readme": TINY["datasets"]["readme"] | {"activations": given}}
    return TINY | {"datasets": datasets} | changes


def storing(given: object, **changes: Any) -> Config:
    return load(values(given, **changes))


def refusal(given: object, **changes: Any) -> str:
    with pytest.raises(UserError) as refused:
        storing(given, **changes)
    return str(refused.value).removeprefix("config: ")


def test_folders_are_known_by_split_and_model(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = GIVEN | {"train": {"tiny-chat": "~/a/layer_1_out", "tiny-base": "b/layer_1_out"}}
    stores = storing(given).stores
    assert list(stores) == ["readme"] and storing(None).stores == {}
    assert stores["readme"].folders("train") == {
        "tiny-base": "b/layer_1_out",
        "tiny-chat": "/home/me/a/layer_1_out",
    }
    assert stores["readme"].folders("validation")["tiny-chat"] == "tiny-chat/validation/layer_1_out"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": GIVEN["train"]}, f"{KEY}.validation: missing"),
        (
            GIVEN | {"train": {"tiny-base": "layer_1_out"}},
            f"{KEY}.train: found tiny-base, allowed: both models, tiny-base, tiny-chat",
        ),
        (
            GIVEN | {"train": {"tiny-base": "layer_1_out", "tiny-chat": "a/layer_2_out"}},
            f"{KEY}.train.tiny-chat: found a/layer_2_out, allowed: a folder layer_1_out, of the pair's layer",
        ),
        (
            GIVEN | {"validation": {"tiny-base": "a", "tiny-chat": "layer_1_out"}},
            f"{KEY}.validation.tiny-base: found a, allowed: a folder layer_1_out, of the pair's layer",
        ),
    ],
)
def test_wrong_stores_are_one_line(given, said):
    assert refusal(given) == said


def test_stores_need_one_pair_at_one_layer_and_caches():
    layers = {**TINY["pair"], "layers": [0, 1]}
    del layers["layer"]
    assert refusal(GIVEN, pair=layers, catalogue=None).startswith(
        f"{KEY}: a store belongs to one pair at one"
    )
    live = TINY["activations"] | {"store": "none", "sample_tokens": 9000}
    assert refusal(GIVEN, activations=live) == f"{KEY}: found with activations.store: none, allowed: all"
    planted = yaml.safe_load((ROOT / "configs/planted-tiny.yaml").read_text())
    name = next(iter(planted["datasets"]))
    planted["datasets"][name]["activations"] = GIVEN
    with pytest.raises(
        UserError, match="found with planted concepts, allowed: activations that are harvested"
    ):
        load(planted)


def test_files_are_named_and_a_folder_that_is_no_store_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, key = storing(GIVEN), f"{KEY}.train.tiny-base"
    assert f"config: {key}: found tiny-base/train/layer_1_out, which is not there" in missing_files(config)
    before = state(values(GIVEN), tmp_path, ROOT)
    ids = [torch.arange(4).numpy(), torch.arange(5).numpy()]
    folder = write_store(Path("tiny-base/train/layer_1_out"), ids, torch.ones(9, 2), rows=5, ranges=True)
    assert state(values(GIVEN), tmp_path, ROOT) != before
    above = folder.parent
    assert [path for name, path in local_files(config) if name == key] == [
        f"{folder}/config.json",
        f"{above}/tokens.pt",
        f"{above}/sequence_ranges.pt",
        f"{folder}/shard_0.meta",
        f"{folder}/shard_1.meta",
        f"{folder}/shard_0.memmap",
        f"{folder}/shard_1.memmap",
    ]
    (above / "tokens.pt").unlink()
    with pytest.raises(UserError, match=rf"{key}: found no tokens\.pt in {folder} or above; without"):
        local_files(config)


def test_forecast_counts_what_is_read_without_the_models_work():
    models = {"tiny": shape(load(TINY), ROOT)}
    needs = forecast(storing(GIVEN), models)["harvest_activations"]
    without = forecast(load(TINY), models)["harvest_activations"]
    assert (needs.jobs, needs.disk, needs.written) == (without.jobs, without.disk, without.written)
    assert needs.flop == pytest.approx(without.flop * 14 / 21)  # 7000 of 21,000 tokens are read
    assert needs.passes == pytest.approx(without.passes * 14 / 21)
    assert known_as("read_activations") == "harvest_activations" != known_as("check_store")


@pytest.mark.parametrize(
    "given", [None, "here", {"train": None}, {"train": "here"}, {"train": {"tiny-base": None}}]
)
def test_plan_of_a_config_that_is_no_config_yet_has_a_state(tmp_path, given):
    """``load`` refuses it in one line. The plan is asked for its state before."""
    assert state(values(given), tmp_path, ROOT) == state(values(given), tmp_path, ROOT)
    if given is not None:
        assert refusal(given)


def test_plan_has_another_state_when_a_store_gets_its_ranges(tmp_path):
    given = {"train": {"tiny-base": "store/train/layer_1_out"}}
    (tmp_path / "store/train/layer_1_out").mkdir(parents=True)
    before = state(values(given), tmp_path, ROOT)
    (tmp_path / "store/train/sequence_ranges.pt").touch()
    assert state(values(given), tmp_path, ROOT) != before
