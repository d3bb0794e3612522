"""Which trainings the job of another one takes along."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY

from crossdiff.config import load
from crossdiff.crosscoders.handover import leave
from crossdiff.provenance.recording import identify
from crossdiff.provenance.records import Record, write_record
from crossdiff.workflow.run import Run
from crossdiff.workflow.together import PLANNED, RULES, announce, other_orders, turns

VALUES = yaml.safe_load((ROOT / TINY).read_text())
OWN = {"pair": "tiny", "layer": "1", "crosscoder": "l1", "seed": "0"}
INPUTS = [(name, f"results/{name}") for name in ("tokens", "base", "chat", "summary")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for _, path in INPUTS:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(path)
        os.utime(path, (1e9, 1e9))
    return tmp_path


def job(made: tuple[str, ...] = (), **changes: str) -> dict[str, Any]:
    wildcards = OWN | changes
    named = {"crosscoder": wildcards["crosscoder"]}
    of = "results/{pair}/layer{layer}/{crosscoder}/seed{seed}".format(**wildcards)
    return {
        "rule": RULES[0],
        "wildcards": wildcards,
        "params": {"settings": Run(VALUES).settings("crosscoders.{crosscoder}")(OWN | named)},
        "inputs": INPUTS,
        "outputs": [(name, f"{of}/{name}.file") for name in ("weights", "config", "log")],
        "made": list(made),
    }


def orders(*jobs: dict[str, Any]) -> list[Any]:
    """Give what the own job takes along when ``jobs`` are planned."""
    PLANNED.parent.mkdir(parents=True, exist_ok=True)
    PLANNED.write_text(json.dumps([job(), *jobs]))
    os.utime(PLANNED, (2e9 - 100, 2e9 - 100))
    return list(other_orders(SimpleNamespace(wildcards=OWN, config=VALUES)))


def test_nothing_is_taken_along_without_a_plan() -> None:
    assert list(other_orders(SimpleNamespace(wildcards=OWN, config=VALUES))) == []
    assert orders() == []


def test_trainings_of_the_same_pair_and_layer_are_taken_along() -> None:
    other, again = job(crosscoder="batchtopk"), job(seed="1")
    found = orders(other, again, job(pair="another"), job(layer="2"))
    assert [order.name for order in found] == ["batchtopk seed 0", "l1 seed 1"]
    assert [order.settings for order in found] == [load(VALUES).crosscoders[c] for c in ("batchtopk", "l1")]
    assert found[0].inputs == {
        "tokens": ["results/tokens"],
        "base": ["results/base"],
        "chat": ["results/chat"],
        "summary": "results/summary",
    }
    identity = identify(
        RULES[0], again["wildcards"], again["params"], INPUTS, [path for _, path in again["outputs"]]
    )
    assert (found[1].identity, found[1].seed, found[1].read) == (identity.id, 1, tuple(identity.inputs))


def test_a_training_whose_input_is_not_made_yet_trains_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert orders(job(seed="1", made=("results/base",))) == []
    told = "l1 seed 1: trains by itself, because results/base is not made yet"
    assert caplog.messages == [told]
    os.utime("results/base", (2e9, 2e9))
    assert len(orders(job(seed="1", made=("results/base",)))) == 1


def test_what_the_run_has_made_or_what_waits_is_not_trained_again() -> None:
    [order] = orders(job(seed="1"))
    record = Record(order.identity, RULES[0], {}, {}, {}, [], [], {})
    Path(order.outputs.weights).parent.mkdir(parents=True)
    write_record(order.outputs.weights, record)
    path = f"{order.outputs.weights}.record.json"
    os.utime(path, (2e9, 2e9))
    assert orders(job(seed="1")) == []
    os.utime(path, (1e9, 1e9))  # of an earlier run; this one makes it again
    assert orders(job(seed="1")) == [order]
    leave(order)
    assert orders(job(seed="1")) == []


def test_turns_are_per_pair_and_layer() -> None:
    limits: dict[str, int] = {}
    workflow = SimpleNamespace(register_resource=limits.__setitem__)
    places = [("tiny", 1), ("tiny", 2), ("other", 1)]
    assert turns(workflow, load(VALUES), places) == {} == limits
    found = turns(workflow, load(VALUES | {"train_together": True}), places)
    assert list(limits.values()) == [1, 1, 1] and limits.keys() == found.keys()
    for number, (pair, layer) in enumerate(places):
        wildcards = SimpleNamespace(pair=pair, layer=str(layer))
        assert [turn(wildcards) for turn in found.values()] == [int(number == i) for i in range(3)]


def test_a_plan_of_an_earlier_run_is_removed() -> None:
    orders(job(seed="1"))
    announce(SimpleNamespace(is_main_process=False), load(VALUES))
    assert PLANNED.exists()  # a job on a cluster reads the Snakefile, too
    announce(SimpleNamespace(is_main_process=True), load(VALUES))
    assert not PLANNED.exists()
