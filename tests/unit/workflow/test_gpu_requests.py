"""How many GPUs jobs ask for on this machine, and runs that this machine has too few GPUs for."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT
from snakemake.resources import Resource, Resources

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.workflow import gpu_room, machine_gpus
from crossdiff.workflow.gpu_requests import gres_count, settle, with_count
from crossdiff.workflow.gpus_needed import gpus_needed
from crossdiff.workflow.machine_gpus import GPU
from crossdiff.workflow.resources import Requests

LARGE, EIGHT = "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("device", "card", "splits", "number"),
    [
        (0, 80e9, True, 0),
        (1, 80e9, True, 1),
        (72e9, 80e9, True, 1),
        (72.1e9, 80e9, True, 2),
        (141e9, 80e9, True, 2),
        (141e9, 80e9, False, 1),
        (141e9, None, True, 1),
    ],
)
def test_gpus_needed(device: float, card: float | None, splits: bool, number: int) -> None:
    assert gpus_needed(device, card, splits) == number


@pytest.mark.parametrize(
    ("gres", "count", "for_four"),
    [
        ("gpu", 1, "gpu:4"),
        ("gpu:2", 2, "gpu:4"),
        ("gpu:a100", 1, "gpu:a100:4"),
        ("gpu:a100:8", 8, "gpu:a100:4"),
        ("gpu:1g.10gb:1", 1, "gpu:1g.10gb:4"),
        ("tmp:50", 1, "tmp:50"),
    ],
)
def test_gres(gres: str, count: int, for_four: str) -> None:
    assert gres_count(gres) == count
    assert with_count(gres, 4) == for_four


class Run:
    """A run on this machine with these GPUs, and what the command line gives the rules."""

    def __init__(self, model: str, gpus: int, changes: dict[str, Any], **overwritten: dict[str, Any]) -> None:
        values = yaml.safe_load((ROOT / "configs/llama3.1-8b.yaml").read_text())
        for role in ("base", "chat"):
            values["pair"][role]["hub"]["name"] = model
            if bits := changes.get("bits"):
                values["pair"][role]["bits"] = bits
        values |= {"gpus": {name: value for name, value in changes.items() if name not in ("bits", "look")}}
        values["first_look"] = {"take": changes.get("look", False)}
        self.requests = Requests(load(values), ROOT)
        self.rules = [self.rule(name, overwritten.get(name, {})) for name in self.requests.needs]
        parsed = {name: Resources.from_mapping(given) for name, given in overwritten.items()}
        self.workflow = SimpleNamespace(
            rules=self.rules,
            is_main_process=True,
            local_exec=True,
            async_run=None,
            executor_plugin=SimpleNamespace(name="local"),
            global_resources={"on_gpu": Resource("on_gpu", gpus)},
            resource_settings=SimpleNamespace(_parsed_overwrite_resources=parsed),
            dag=SimpleNamespace(needrun_jobs=lambda: map(self.job, self.rules)),
        )
        settle(self.workflow, self.requests)

    def rule(self, name: str, given: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(name=name, resources=Resources.from_mapping(dict(self.requests(name)) | given))

    def job(self, rule: SimpleNamespace) -> SimpleNamespace:
        wildcards = {"pair": "llama3-1-8b", "layer": "16"}
        if rule.name == "prove_model":
            wildcards |= {"model": "llama-3-1-8b"}
        return SimpleNamespace(rule=rule, wildcards=wildcards, input=[], threads=1)

    def asked(self, *rules: str) -> list[int]:
        named = {rule.name: rule.resources["on_gpu"] for rule in self.rules}
        return [named[rule].evaluate({}, attempt=1).value for rule in rules]


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[GPU]]:
    """The cards of a pretended machine. A test may change the list."""
    found = [GPU(f"GPU-{number}", 80e9) for number in range(4)]
    monkeypatch.setattr(machine_gpus, "_found", lambda *_: tuple(found))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    return found


RULES = ("harvest_activations", "measure_causal_effect", "train_crosscoder", "scale_latents", "tokenise")


@pytest.mark.parametrize(
    ("model", "changes", "asked"),
    [
        (EIGHT, {}, [1, 1, 1, 1, 0]),
        (LARGE, {}, [3, 4, 1, 1, 0]),  # five would be better, but there are four
        (EIGHT, {"memory": 20}, [2, 3, 1, 1, 0]),
        (EIGHT, {"training": 2}, [1, 1, 2, 1, 0]),
    ],
)
def test_jobs_ask_for_what_the_cards_of_this_machine_hold(
    model: str, changes: dict[str, Any], asked: list[int]
) -> None:
    run = Run(model, 4, changes)
    assert run.asked(*RULES) == asked
    gpu_room.check(run.workflow, run.requests)


def test_fewer_gpus_than_there_are() -> None:
    """``--resources on_gpu=2`` on a machine with four."""
    run = Run("google/gemma-2-27b", 2, {"memory": 60})
    assert run.asked("harvest_activations", "measure_causal_effect") == [2, 2]
    gpu_room.check(run.workflow, run.requests)


def test_what_the_user_asks_for_counts() -> None:
    run = Run(
        LARGE, 4, {}, train_crosscoder={"gpu": 4}, harvest_activations={"gpu": 1}, prove_model={"on_gpu": 1}
    )
    assert run.asked("train_crosscoder", "harvest_activations", "prove_model") == [4, 3, 1]
    named = {rule.name: rule.resources for rule in run.rules}
    assert named["harvest_activations"]["gpu"].evaluate({}, attempt=1).value == 3


@pytest.mark.parametrize(
    ("gpus", "changes", "overwritten", "line"),
    [
        (2, {"training": 4}, {}, "gpus.training: found 4, allowed on this machine: up to 2"),
        (
            4,
            {},
            {"scale_latents": {"gpu": 8}},
            "rule scale_latents: on_gpu: found 8, allowed on this machine: up to 4",
        ),
        (
            1,
            {},
            {},
            "pair.base: prove_model needs 141.1 GB for weights, this machine's GPUs have 1 x 80.0 GB; "
            "it would fit: bits: 8 (70.6 GB), or bits: 4 (35.3 GB), or gpus.offload: true",
        ),
        (
            3,
            {"look": True, "bits": 8, "memory": 20},
            {},
            "pair.base and pair.chat: compare_models needs 141.1 GB for weights, this machine's GPUs "
            "have 3 x 20.0 GB; it would fit: gpus.offload: true, or first_look.take: false",
        ),
        (
            3,
            {},
            {},
            "pair.base and pair.chat: measure_causal_effect needs 282.2 GB for weights, this machine's GPUs "
            "have 3 x 80.0 GB; it would fit: bits: 8 (141.1 GB), or bits: 4 (70.6 GB), or gpus.offload: true",
        ),
        (
            4,
            {"memory": 20, "bits": 8},
            {},
            "pair.base and pair.chat: measure_causal_effect needs 141.1 GB for weights, this machine's GPUs "
            "have 4 x 20.0 GB; it would fit: bits: 4 (70.6 GB), or gpus.offload: true",
        ),
    ],
)
def test_too_few_gpus_stop_a_run_before_its_first_job(
    cards: list[GPU], gpus: int, changes: dict[str, Any], overwritten: dict[str, Any], line: str
) -> None:
    del cards[gpus:]
    run = Run(LARGE, gpus, changes, **overwritten)
    with pytest.raises(UserError) as error:
        gpu_room.check(run.workflow, run.requests)
    assert str(error.value) == line


def test_a_run_goes_on(cards: list[GPU], tmp_path: Path) -> None:
    """``check`` raises nothing in each of these cases. The test above shows that it can."""
    del cards[1:]
    for changes in ({"offload": True}, {"bits": 4, "offload": True}):
        run = Run(LARGE, 1, changes)
        gpu_room.check(run.workflow, run.requests)
        assert run.asked("measure_causal_effect") == [1]
    unknown = Run("some/model-of-few-bits", 1, {})
    gpu_room.check(unknown.workflow, unknown.requests)
    run = Run(LARGE, 1, {})
    run.workflow.executor_plugin.name = "slurm"
    gpu_room.check(run.workflow, run.requests)
    cards.clear()
    run.workflow.executor_plugin.name = "local"
    gpu_room.check(run.workflow, run.requests)  # on the CPU


def test_a_model_that_is_stored_in_few_bits_is_not_refused(cards: list[GPU], tmp_path: Path) -> None:
    del cards[3:]
    run = Run(LARGE, 3, {})
    for name in ("llama-3-1-8b", "llama-3-1-8b-instruct"):
        (tmp_path / f"results/models/{name}").mkdir(parents=True)
        (tmp_path / f"results/models/{name}/config.json").write_text('{"quantization_config": {"bits": 4}}')
    gpu_room.check(run.workflow, run.requests)
