"""Forecasts of caches that are kept, removed or never written: numbers by hand for a small config."""

from copy import deepcopy
from typing import Any

import pytest
import yaml
from conftest import ROOT

from crossdiff.config import Config, load
from crossdiff.workflow.forecast_data import Data, model_bytes
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.sizes import PROCESS, Need, Shape, kept, peak

SMALL = Shape(layers=3, d_model=32, d_mlp=64, vocabulary=260, attention=4096)
BLOCK, EMBEDDING = 4096 + 3 * 32 * 64, 260 * 32  # parameters
CACHED = 2 * 32 * 0.72 + 4  # bytes on disk of a token's activations, of one model at one layer
LATENTS = (128, 96)
PARAMETERS = tuple(4 * latents * 32 for latents in LATENTS)  # both matrices of both models
SAMPLE = {"store": "none", "sample_tokens": 3000}


def config(
    path: str = "configs/tiny.yaml", activations: dict[str, Any] | None = None, **changes: Any
) -> Config:
    values = deepcopy(yaml.safe_load((ROOT / path).read_text()))
    given = {"activations": values.get("activations", {}) | activations} if activations else {}
    return load(values | given | changes)


def total(needs: dict[str, Need]) -> tuple[float, float]:
    return kept(needs.values()), peak(needs.values())


def test_data_of_a_sample_are_its_share_of_every_data_set() -> None:
    assert Data.of(config()) == (18_000, 18_000, 3000, 5, 5, 6000)
    # 1000 and 2000 training tokens: one shard for each data set.
    assert Data.of(config(activations=SAMPLE)) == (18_000, 3000, 3000, 5, 4, 2000)
    # A sample is not cut into shards.
    assert Data.of(config(activations=SAMPLE | {"sample_tokens": 15_000})).caches == 4
    assert Data.of(config(activations=SAMPLE | {"sample_tokens": 15_000})).largest == 10_000


def test_peak_counts_checkpoints_next_to_what_stays() -> None:
    needs = forecast(config(), SMALL)
    assert needs["harvest_activations"].disk == pytest.approx(2 * 21_000 * CACHED)
    assert needs["train_crosscoder"].disk == 2 * 4 * sum(PARAMETERS)
    # Weights and two moments of two seeds. All separate trainings may write a new one next to the last one.
    assert needs["train_crosscoder"].temporary == 2 * (2 * 12 * sum(PARAMETERS))
    together = forecast(config(train_together=True), SMALL)["train_crosscoder"]
    assert together.temporary == 2 * 12 * sum(PARAMETERS) + 12 * max(PARAMETERS)
    assert peak(needs.values()) - kept(needs.values()) == needs["train_crosscoder"].temporary


def test_caches_that_are_removed_count_for_the_peak_alone() -> None:
    whole, removed = forecast(config(), SMALL), forecast(config(activations={"keep": False}), SMALL)
    caches = 2 * 21_000 * CACHED
    need = removed["harvest_activations"]
    assert (need.disk, need.temporary) == (0, pytest.approx(caches))
    assert total(removed) == (pytest.approx(total(whole)[0] - caches), pytest.approx(total(whole)[1]))
    assert removed["harvest_activations"].written == whole["harvest_activations"].written
    assert total(removed)[0] < total(removed)[1] <= total(whole)[1] * (1 + 1e-12)


def test_without_caches_only_a_sample_and_held_out_tokens_are_harvested() -> None:
    needs = forecast(config(activations=SAMPLE), SMALL)
    harvest = needs["harvest_activations"]
    assert (harvest.jobs, harvest.tokens) == (2 * 4, 6000)
    assert harvest.disk == pytest.approx(2 * 6000 * CACHED)
    assert harvest.flop == 2 * 2 * 6000 * 2 * BLOCK  # both models, to the second block
    assert (needs["tokenise"].jobs, needs["tokenise"].tokens) == (5, 21_000)
    sample = needs["draw_sample"]
    assert (sample.jobs, sample.tokens, sample.device) == (1, 3000, 0)
    assert [needs[rule].tokens for rule in ("scale_latents", "read_latents", "measure_reconstruction")] == [
        3000
    ] * 3
    assert "draw_sample" not in forecast(config(), SMALL)
    assert total(needs)[1] < total(forecast(config(), SMALL))[1]


def test_training_without_caches_runs_both_models_once_for_all() -> None:
    needs = forecast(config(activations=SAMPLE), SMALL)
    assert "train_crosscoder" not in needs
    need, steps = needs["train_live"], forecast(config(), SMALL)["train_crosscoder"].work
    assert (need.jobs, need.tokens) == (4, 4 * 25_600)
    # Mean and scale come from all 18,000 training tokens, since the sample is smaller than that.
    assert need.work[0][:2] == ("forward", 2 * 2 * (25_600 + 18_000) * 2 * BLOCK)
    assert need.passes == pytest.approx((25_600 + 18_000) / 4096)
    assert need.work[1:] == steps
    both, batch = 2 * 2 * (EMBEDDING + 3 * BLOCK), 4096 * 4 * (4 * 32 + 2 * 64)
    trainings = [latents * (16 * 4 * 32 + 24 * 256) for latents in LATENTS] * 2  # and seeds
    assert need.device == both + batch + sum(trainings)
    assert (need.models, need.loads, sorted(need.trainings)) == (both, both, sorted(trainings))
    pool = 18_000 // 5 * 2 * 2 * 32  # a fifth of the training tokens, bfloat16 of both models
    assert need.host == PROCESS + pool + 26 * 18_000 + 12 * max(PARAMETERS)
    assert (need.read, need.pairs, need.written) == (0, 0, 0)
    assert need.disk == 2 * 4 * sum(PARAMETERS)


def test_pools_of_other_sizes_are_streams_of_their_own() -> None:
    crosscoders = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())["crosscoders"]
    crosscoders["l1"] |= {"buffer_tokens": 1000, "tokens": 51_200}
    found = forecast(config(activations=SAMPLE, crosscoders=crosscoders), SMALL)["train_live"]
    assert found.work[0].flop == 2 * 2 * (25_600 + 51_200 + 18_000) * 2 * BLOCK


def test_a_sample_that_suffices_for_mean_and_scale_saves_a_pass() -> None:
    found = forecast(config(activations=SAMPLE | {"statistics_tokens": SAMPLE["sample_tokens"]}), SMALL)
    assert found["train_live"].work[0].flop == 2 * 2 * 25_600 * 2 * BLOCK


def test_several_pairs_and_layers_share_caches_and_samples() -> None:
    pairs = "configs/tiny-pairs.yaml"
    removed = forecast(config(pairs, {"keep": False}), SMALL)
    # Three models at two layers. All of their caches may exist at once.
    assert removed["harvest_activations"].temporary == pytest.approx(3 * 2 * 21_000 * CACHED)
    assert removed["harvest_activations"].disk == 0
    live, crosscoders = forecast(config(pairs, SAMPLE), SMALL), len(config(pairs).crosscoders)
    assert (live["draw_sample"].jobs, live["harvest_activations"].jobs) == (1, 3 * 4)
    assert live["harvest_activations"].disk == pytest.approx(3 * 2 * 6000 * CACHED)
    assert live["train_live"].jobs == 4 * crosscoders * len(config(pairs).seeds)
    # Each pair and layer has a stream of its own, to the second block or to the first one.
    forward = sum(part.flop for part in live["train_live"].work if part.kind == "forward")
    assert forward == 2 * (2 * 2 * (25_600 + 18_000)) * (2 * BLOCK + BLOCK)
    assert len(live["train_live"].trainings) == crosscoders * len(config(pairs).seeds)


def test_caches_of_planted_concepts_are_removed_too() -> None:
    whole = forecast(config("configs/planted-tiny.yaml"), SMALL)
    removed = forecast(config("configs/planted-tiny.yaml", {"keep": False}), SMALL)
    caches = peak([removed["plant_concepts"]]) - kept([removed["plant_concepts"]])
    assert 0 < caches == pytest.approx(whole["plant_concepts"].disk - removed["plant_concepts"].disk)
    assert removed["plant_concepts"].disk > 0  # the firings
    assert peak(removed.values()) == pytest.approx(peak(whole.values()))


@pytest.mark.parametrize(("bits", "each"), [(8, 1.0), (4, 0.5625)])
def test_blocks_of_few_bits_take_less(bits: int, each: float) -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    values["pair"]["chat"]["bits"] = bits
    chat = 2 * EMBEDDING + each * 3 * BLOCK
    assert model_bytes(load(values), SMALL, "chat") == chat
    assert model_bytes(load(values), SMALL, "base", "chat") == chat + 2 * (EMBEDDING + 3 * BLOCK)
    # A harvest loads one model at a time, and the base is the larger one.
    assert forecast(load(values), SMALL)["harvest_activations"].models == 2 * (EMBEDDING + 3 * BLOCK)


def test_gpus_of_a_training_share_its_batch_and_exchange_gradients() -> None:
    one, two = (forecast(config(gpus={"training": n}), SMALL)["train_crosscoder"] for n in (1, 2))
    assert two.device == 128 * (16 * 4 * 32 + 24 * 128)
    assert [part.flop for part in two.work] == [part.flop / 2 for part in one.work]
    assert [part.moved for part in two.work] == [part.moved for part in one.work]
    # Each float32 gradient is sent and received by half, in 100 steps of two seeds.
    assert (one.linked, two.linked) == (0, 2 * 100 * 4 * sum(PARAMETERS))
    assert (one.gpus, two.gpus) == (1, 2)
