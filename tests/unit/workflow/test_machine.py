"""GPUs of each job, what has no room on them, and the hours."""

import importlib.util
from typing import Any

import pytest
from conftest import ROOT
from test_forecast_of_disk import config

from crossdiff.config import load
from crossdiff.workflow.cards import Card
from crossdiff.workflow.gpus_needed import turns
from crossdiff.workflow.machine import LINK, Machine
from crossdiff.workflow.sizes import Need, Work

GB, HARVEST, TRAIN = 1e9, "harvest_activations", "train_crosscoder"
RATES = {"product": {"value": 1e12}, "copy": {"value": 1e12}, "forward": {"value": 1e12}}
RECORD = {"card": "a card", "architecture": "sm_90", "cores": 1, "memory": 80 * GB, "steps": []}


def machine(gpus: int | None = None, **changes: Any) -> Machine:
    return Machine(Card("a", RECORD | {"measured": RATES | {"start": {"value": 1.0}}}), gpus, **changes)


def need(device: float, models: float = 0.0, **changes: Any) -> Need:
    return Need(4, 0, 0, 1 * GB, device * GB, 0, models=models * GB, **changes)


def test_models_are_spread_over_as_many_gpus_as_hold_them() -> None:
    # Nine tenths of 80 GB count.
    assert [machine().gpus_of(HARVEST, need(size, size)) for size in (0, 72, 73, 150)] == [0, 1, 2, 3]
    assert machine().each(HARVEST, need(150, 140)) == 50 * GB
    assert machine(limit=40 * GB).gpus_of(HARVEST, need(150, 140)) == 5
    assert machine().gpus_of(TRAIN, need(150)) == 1  # weights are not divided


def test_what_lies_on_one_gpu_must_fit_it() -> None:
    assert machine().lacks(HARVEST, need(400, 330)) is None
    line = "GPU memory: harvest_activations needs 73.0 GB on one GPU next to models, a card has 80.0 GB"
    assert machine().lacks(HARVEST, need(400, 327)) == line
    assert machine().lacks(TRAIN, need(80)) is None
    line = "GPU memory: train_crosscoder needs 81.0 GB on one GPU, a card has 80.0 GB"
    assert machine().lacks(TRAIN, need(81)) == line
    line = "GPU memory: train_crosscoder needs 41.0 GB on one GPU, gpus.memory gives 40.0 GB"
    assert machine(limit=40 * GB).lacks(TRAIN, need(41)) == line


def test_too_few_gpus_are_told() -> None:
    line = "GPUs: harvest_activations needs 3 for 150.0 GB, there are 2"
    assert machine(2).lacks(HARVEST, need(150, 140)) == line
    assert machine(3).lacks(HARVEST, need(150, 140)) is None
    assert machine(2).lacks(TRAIN, need(10, gpus=4)) == "GPUs: train_crosscoder needs 4, there are 2"


def test_main_memory_holds_what_gpus_have_no_room_for() -> None:
    small, job = machine(1, offload=True), need(100, 90, passes=10, work=(Work("forward", 0),))
    assert (small.gpus_of(HARVEST, job), small.offloaded(HARVEST, job)) == (1, pytest.approx(28 * GB))
    assert small.host(HARVEST, job) == pytest.approx(29 * GB)
    assert small.each(HARVEST, job) == pytest.approx(72 * GB)
    more = 10 * 28 * GB / LINK / 3600
    assert small.hours(HARVEST, job) == pytest.approx(machine(2).hours(HARVEST, job) + more)
    assert small.lacks(HARVEST, job) is None
    assert machine(2, offload=True).offloaded(HARVEST, job) == 0
    assert machine(1, offload=True).lacks(HARVEST, need(100, 10)) is not None


def test_models_of_few_bits_stay_on_gpus() -> None:
    gpus = {"offload": True, "memory": 10.0}
    values = config(gpus=gpus).model_dump(by_alias=True, exclude_unset=True)
    found = Machine.of(machine().card, load(values), 2)
    assert (found.gpus, found.memory, found.offload) == (2, 10 * GB, True)
    values["models"] = {}
    values["pair"] |= {"base": {"folder": "base", "bits": 4}, "chat": {"folder": "chat"}}
    assert not Machine.of(machine().card, load(values)).offload


def test_jobs_run_side_by_side_where_they_fit() -> None:
    job = need(10, 8, work=(Work("forward", 4e12 * 100),))  # four jobs of 100 s, and their starts
    assert machine().hours(HARVEST, job) * 3600 == pytest.approx(404)
    assert machine(4).hours(HARVEST, job) * 3600 == pytest.approx(101)
    assert machine(3).hours(HARVEST, job) * 3600 == pytest.approx(202)
    assert machine(4).hours(HARVEST, job._replace(device=100 * GB)) * 3600 == pytest.approx(202)
    assert machine(4).hours(HARVEST, job._replace(side_by_side=False)) * 3600 == pytest.approx(404)
    # The disk and the cores that read are the same for all: 3e8 bytes/s of one core.
    read = job._replace(work=(Work("encode", 0),), read=3e8 * 50)
    assert machine(4).hours(HARVEST, read) * 3600 == pytest.approx(1 + 50)


def test_crosscoders_without_room_train_in_a_later_turn() -> None:
    """72 of 80 GB count, and a batch of the models takes 12."""
    live = need(30 + 12 + 90, 30, trainings=(30 * GB,) * 3, work=(Work("forward", 1e15), Work("l1", 0)))
    assert turns(live, machine().memory) == [60 * GB, 30 * GB]
    assert machine().gpus_of("train_live", live) == 2  # the models, a batch and two crosscoders: 102 GB
    assert machine().hours("train_live", live) * 3600 == pytest.approx(4 + 2 * 1000)
    larger = need(30 + 12 + 61, 30, trainings=(61 * GB,))
    line = "GPU memory: train_live needs 73.0 GB on one GPU next to models, a card has 80.0 GB"
    assert machine().lacks("train_live", larger) == line
    assert machine().lacks("train_live", live) is None


def test_cpu_has_no_gpus() -> None:
    cpu = Machine(Card("cpu", RECORD | {"architecture": "cpu", "memory": None, "measured": RATES}))
    assert (cpu.gpus_of(HARVEST, need(100, 90)), cpu.each(HARVEST, need(100, 90))) == (0, 100 * GB)
    assert cpu.lacks(HARVEST, need(1000, 900)) is None


def test_page_of_large_models_has_the_tables_that_its_command_prints() -> None:
    path = ROOT / "docs/make_large_models.py"
    spec = importlib.util.spec_from_file_location("make_large_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first, second = "\n".join(module.tables()).split("\n\n")
    page = (ROOT / "docs/large-models-forecast.md").read_text(encoding="utf-8")
    assert first in page and second in page
