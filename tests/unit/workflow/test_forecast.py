"""Forecasts against what runs have measured."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

from crossdiff.activations import harvest
from crossdiff.config import Config, Stated, load
from crossdiff.interventions.causal_effect import variants
from crossdiff.latents.strongest_groups import SHOWN
from crossdiff.workflow.cards import Card
from crossdiff.workflow.forecast import WINDOW
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.harvests import known_as
from crossdiff.workflow.resources import LEAST_MB, Requests
from crossdiff.workflow.shapes import folder_shape, shape
from crossdiff.workflow.sizes import Need, Shape

MEASURED = yaml.safe_load((ROOT / "tests/data/default-run.yaml").read_text())
SIZES = {"vocab_size": 100, "n_layer": 2, "n_embd": 16, "n_head": 4}
SMOLLM = Shape(30, 576, 1536, 49_152, 884_736)
GEMMA = Shape(26, 2304, 9216, 256_000, 2 * 2304 * 256 * 12)


def config(path: str) -> Config:
    return load(yaml.safe_load((ROOT / path).read_text()))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Need]:
    return forecast(
        config("config.yaml"), shape(config("config.yaml"), without_results(tmp_path_factory.mktemp("root")))
    )


def without_results(root: Path) -> Path:
    """A folder that holds what is known of models, and no model."""
    shutil.copytree(ROOT / "data", root / "data", dirs_exist_ok=True)
    return root


@pytest.mark.parametrize("rule", [rule for rule, found in MEASURED.items() if "bytes" in found])
def test_disk_within_a_tenth(default: dict[str, Need], rule: str) -> None:
    assert default[rule].disk == pytest.approx(MEASURED[rule]["bytes"], rel=0.1)


def test_whole_disk_within_a_tenth(default: dict[str, Need]) -> None:
    assert sum(need.disk for need in default.values()) == pytest.approx(
        sum(found.get("bytes", 0) for found in MEASURED.values()), rel=0.1
    )


@pytest.mark.parametrize("rule", [rule for rule, found in MEASURED.items() if "resident" in found])
def test_memory_within_three_tenths(default: dict[str, Need], rule: str) -> None:
    assert default[rule].memory / 1e6 == pytest.approx(MEASURED[rule]["resident"], rel=0.3)


def test_jobs_and_tokens_are_the_configs(default: dict[str, Need]) -> None:
    assert {rule: need.jobs for rule, need in default.items() if need.jobs > 2} == {
        "tokenise": 6,
        "harvest_activations": 12,
    }
    assert (
        default["tokenise"].tokens,
        default["train_crosscoder"].tokens,
        default["scale_latents"].tokens,
    ) == (214_000, 2_000_000, 202_000)


def test_papers_model_and_run() -> None:
    assert GEMMA.parameters() == pytest.approx(2.614e9, rel=0.001)  # as its model card says
    needs = forecast(config("configs/gemma2-2b.yaml"), GEMMA)
    assert needs["harvest_activations"].jobs == 2 * needs["tokenise"].jobs == 204
    assert needs["train_crosscoder"].disk == pytest.approx(2 * 4 * 4 * 73_728 * 2304)
    steps, products, parameters = 200_000_000 // 2048, 2 * 2048 * 2 * 2304 * 73_728, 4 * 73_728 * 2304
    assert [work[:3] for work in needs["train_crosscoder"].work] == [
        (loss, pytest.approx(steps * products), pytest.approx(steps * 34 * parameters))
        for loss in ("batchtopk", "l1")
    ]
    blocks = 14 * (GEMMA.attention + 3 * 2304 * 9216)
    assert needs["harvest_activations"].flop == 2 * 2 * 102_000_000 * blocks  # embeddings are looked up
    assert needs["harvest_activations"].written == 2 * 102_000_000 * 2 * 2304


def test_newer_losses_take_a_multiple_of_a_measured_step_and_the_disk_of_their_codes() -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    known = values["crosscoders"]["batchtopk"]
    own = {
        "matryoshka": {},
        "difference": {"normalisation": {"kind": "none"}},
        "delta": {"shared": 0.5, "delta_k": known["k"]},
    }
    needs = {
        loss: forecast(load(values | {"crosscoders": {"one": known | {"loss": loss} | keys}}), GEMMA)
        for loss, keys in {"batchtopk": {}, **own}.items()
    }
    [plain] = needs["batchtopk"]["train_crosscoder"].work
    for loss, times in {"matryoshka": 1.3, "difference": 1.0, "delta": 1.2}.items():
        [work] = needs[loss]["train_crosscoder"].work
        assert work.kind == "batchtopk"
        assert (work.flop, work.moved) == (
            pytest.approx(times * plain.flop),
            pytest.approx(times * plain.moved),
        )
    disk = {loss: need["scale_latents"].disk for loss, need in needs.items()}
    assert disk["delta"] == 2 * disk["batchtopk"] == 2 * disk["difference"]


def test_default_run_takes_as_long_as_it_did() -> None:
    """At layer 12 it took 705 s on two cores of 0.35 TFLOP/s (docs/performance.md), jobs side by side."""
    record = {
        "architecture": "cpu",
        "cores": 2,
        "steps": [],
        "measured": {"product": {"value": 3.5e11}, "copy": {"value": 3e10}},
    }
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    needs = forecast(load(values | {"pair": values["pair"] | {"layer": 12}}), SMOLLM)
    seconds = {rule: Card("cpu", record).seconds(need) for rule, need in needs.items()}
    without_look = sum(seconds.values()) - seconds["compare_models"]  # there was no first look then
    assert 705 / 1.6 < without_look < 705 * 1.6
    assert seconds["harvest_activations"] == pytest.approx(346 / 2, rel=0.5)
    assert seconds["finetune_model"] == pytest.approx(122, rel=0.5)


def test_planted_pair_has_one_model_and_three_caches() -> None:
    """The unplanted cache of the base model, and two with concepts; of noise, the latter alone."""
    needs = forecast(config("configs/planted.yaml"), SMOLLM)
    assert [needs[rule].jobs for rule in ("prepare_model", "harvest_activations", "plant_concepts")] == [
        1,
        4,
        4,
    ]
    assert needs["prepare_model"].disk == pytest.approx(272_585_052, rel=0.1)
    # Measured, with the firings.
    assert needs["harvest_activations"].disk == pytest.approx(118_924_404, rel=0.1)
    assert needs["plant_concepts"].disk == pytest.approx(246_921_746 + 4_370_604, rel=0.1)
    assert "finetune_model" not in needs
    values = yaml.safe_load((ROOT / "configs/planted.yaml").read_text())
    values["pair"]["chat"]["planted"]["noise"] = {"d_model": 64}
    of_noise = forecast(load(values), SMOLLM)
    assert "harvest_activations" not in of_noise
    assert of_noise["plant_concepts"].disk < needs["plant_concepts"].disk / 5


def test_causal_effect_takes_a_pass_for_every_patched_run() -> None:
    run = config("config.yaml")
    ranked = ("best_norm", "worst_norm", "best_scaling", "worst_scaling")
    sets = [*ranked, *(f"random_{number}" for number in range(run.causal.random_sets))]
    sets += [f"group_{number}" for number in range(SHOWN)]
    patched_runs = len(variants(dict.fromkeys(sets, np.zeros(0, int))))
    seen = 2 * run.causal.conversations * (128 + run.causal.answer_tokens)  # of two data sets
    above = SMOLLM.per_token() - SMOLLM.per_token(22)  # blocks 22 to 29, and the output embedding
    assert forecast(run, SMOLLM)["measure_causal_effect"].flop == 2 * 2 * seen * (
        SMOLLM.per_token() + patched_runs * above
    )


def test_items_are_listed_from_the_streams_of_all_layers_and_scored_from_one() -> None:
    """Of both models in 16 bits, and four blocks of 512 rows of logits in 32 bits."""
    run = config("configs/organisms.yaml")
    needs = forecast(run, SMOLLM)
    streams, logits = 2 * SMOLLM.layers * 576 * 2 * 2048, 4 * 512 * 4 * SMOLLM.vocabulary
    assert run.activations.batch_tokens > 2048
    assert needs["list_items"].device - needs["score_items"].device == streams + logits


def test_every_rule_that_loads_a_model_or_a_crosscoder_asks_by_the_forecast() -> None:
    """And is forecast in some config, as using a device."""
    everything = explained({"folder": "nowhere"})
    planted = config("configs/planted.yaml")
    several = forecast(config("configs/tiny-pairs.yaml"), SMOLLM)
    several |= forecast(config("configs/organisms.yaml"), SMOLLM)
    several |= forecast(config("configs/gemma2-2b-published.yaml"), SMOLLM)
    live = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
    live["activations"] |= {"store": "none", "sample_tokens": 3000}
    needs = several | forecast(load(live), SMOLLM)
    judged = {"behaviour": Stated(judge="Is it rude?")}
    steering = everything.steering.model_copy(update=judged)
    everything = everything.model_copy(update={"steering": steering})
    needs |= forecast(planted, SMOLLM) | forecast(everything, SMOLLM)
    for rule, text in rules().items():
        script = (ROOT / f"workflow_scripts/{rule}.py").read_text()
        if (
            rule in ("finetune_model", "explain_latents", "ask_about_answers", "judge_steering")
            or "from crossdiff.device" in script
        ):
            assert f'**request("{rule}")' in text, rule
            assert needs[known_as(rule)].device, rule
        elif f'**request("{rule}")' in text:
            assert not needs[rule].device, rule
        assert rule not in needs or f'**request("{rule}")' in text or "localrule: True" in text, rule


def rules() -> dict[str, str]:
    """The text of every rule that has a script."""
    parts = [
        part
        for path in (ROOT / "rules").glob("*.smk")
        for part in re.split(r"^ *(?:rule|checkpoint) (?=\w+:)", path.read_text(), flags=re.M)[1:]
    ]
    return {part.partition(":")[0]: part for part in parts if "script:" in part}


def explained(model: dict) -> Config:
    """The default config with two seeds and a language model that explains."""
    return load(
        yaml.safe_load((ROOT / "config.yaml").read_text())
        | {"seeds": [0, 1], "explanations": {"model": model}}
    )


def test_explainer_needs_what_its_own_size_says(tmp_path: Path) -> None:
    server = {"endpoint": {"url": "http://localhost:8000/v1", "model": "m"}}
    assert "explain_latents" not in forecast(explained(server), SMOLLM)
    asked = Requests(explained({"folder": str(tmp_path)}), ROOT)("explain_latents")
    assert asked["mem_mb"](None, 1) > 64_000  # no config.json: as for any unknown model
    (tmp_path / "config.json").write_text(
        json.dumps(SIZES | {"n_embd": 4096, "n_layer": 32, "n_head": 32, "vocab_size": 32_000})
    )
    need = forecast(explained({"folder": str(tmp_path)}), SMOLLM)["explain_latents"]
    assert (need.jobs, need.device) == (4, 4 * folder_shape(tmp_path).parameters())


def test_one_seed_has_nothing_to_compare() -> None:
    assert "compare_seeds" not in forecast(config("config.yaml"), SMOLLM)
    assert Requests(config("config.yaml"), ROOT)("compare_seeds") == {}


@pytest.mark.parametrize(("name", "held"), [("text.txt", 3e10), ("texts.jsonl", 0)])
def test_files_of_one_text_are_held_in_memory(tmp_path: Path, name: str, held: float) -> None:
    values = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
    small = forecast(load(values), SMOLLM)
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**10)
    values["datasets"]["readme"]["files"] = [str(tmp_path / name)]
    large = forecast(load(values), SMOLLM)
    assert large["tokenise"].host - small["tokenise"].host == pytest.approx(held, rel=0.01, abs=1e6)


def test_rules_that_use_a_gpu() -> None:
    asked = Requests(config("config.yaml"), ROOT)
    rules = ("harvest_activations", "finetune_model", "train_crosscoder", "tokenise")
    assert [asked(rule)["on_gpu"] for rule in rules] == [1, 1, 1, 0]
    values = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"gpus": {"training": 4}}
    assert Requests(load(values), ROOT)("train_crosscoder")["on_gpu"] == 4


def unknown(root: Path) -> Config:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    values["pair"]["base"]["hub"]["name"], values["pair"]["chat"]["hub"]["name"] = "org/new", "org/new-it"
    return load(values)


def test_unknown_model_asks_for_much(tmp_path: Path) -> None:
    root = without_results(tmp_path)
    assert shape(unknown(root), root) is None
    asked = Requests(unknown(root), root)
    assert [asked(rule)["mem_mb"](None, 1) for rule in ("train_crosscoder", "generate_answers")] == [
        64000,
        64000,
    ]
    assert [asked(rule)["on_gpu"] for rule in ("train_crosscoder", "tokenise")] == [1, 0]


def test_requests_grow_with_the_attempt_and_the_config() -> None:
    asked = Requests(config("configs/tiny.yaml"), Path("/nowhere"))("train_crosscoder")
    assert [asked["mem_mb"](None, attempt) for attempt in (1, 2)] == [LEAST_MB, 2 * LEAST_MB]
    assert [asked["runtime"](None, attempt) for attempt in (1, 2)] == [30, 60]
    paper = Requests(config("configs/gemma2-2b.yaml"), ROOT)("train_crosscoder")
    assert paper["mem_mb"](None, 1) > 20_000
    assert paper["runtime"](None, 1) > 400


def test_a_job_that_trains_all_asks_for_all() -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    apart, together = (
        Requests(load(values | {"train_together": on}), ROOT)("train_crosscoder") for on in (False, True)
    )
    trainings = len(values["crosscoders"]) * len(values["seeds"])
    assert together["runtime"](None, 1) == pytest.approx(trainings * apart["runtime"](None, 1), abs=trainings)
    assert apart["mem_mb"](None, 1) < together["mem_mb"](None, 1) < 2 * apart["mem_mb"](None, 1)


def test_window_of_a_harvest_is_the_one_that_it_holds() -> None:
    assert WINDOW == harvest.WINDOW
