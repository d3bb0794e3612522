"""``activations: {store: none}`` in real runs: a sample is stored, and crosscoders train while models run."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import TINY, Checkout, planned

import crossdiff

pytestmark = pytest.mark.slow
TRAININGS = [f"{crosscoder}/seed{seed}" for crosscoder in ("batchtopk", "l1") for seed in (0, 1)]
LIVE = {
    "activations.store": "none",
    "activations.sample_tokens": 5000,
    "latent_scaling": {"bootstrap": {"blocks": 30}},
}
TAKEN = "the job of another crosscoder has trained this one"


def caches(checkout: Checkout) -> set[str]:
    return {
        path.parent.name + "/" + path.name for path in (checkout.folder / "results/activations").rglob("*.h5")
    }


@pytest.fixture(scope="module")
def live(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run without caches, from the models and tokens of the finished one."""
    checkout = finished.copy(tmp_path_factory.mktemp("live") / "checkout")
    shutil.rmtree(checkout.folder / "results/activations")
    config = checkout.changed(TINY, LIVE, "live")
    evaluated = [f"results/tiny/layer1/{training}/evaluation.json" for training in TRAININGS]
    result = checkout.snakemake(*evaluated, "--configfile", config)
    assert result.returncode == 0, result.stdout
    return checkout


def test_a_sample_alone_is_stored(live: Checkout) -> None:
    assert caches(live) == {
        f"{dataset}.{split}/0000.h5"
        for dataset in ("readme", "requests")
        for split in ("sample", "validation")
    }
    tokens = live.folder / "results/tokens/tiny-chat"
    sampled = {
        name: pq.read_metadata(tokens / f"{name}.sample/0000.parquet").num_rows
        for name in ("readme", "requests")
    }
    assert sampled == {"readme": 1666, "requests": 3333}  # as the 6,000 and 12,000 training tokens
    assert json.loads((live.folder / "results/tiny/layer1/summary.json").read_text())["tokens"] == 4999


def test_one_job_trains_all_and_everything_is_verified(live: Checkout) -> None:
    logs = [
        (live.folder / f"logs/tiny/layer1/{training}/train_live.log").read_text() for training in TRAININGS
    ]
    assert sorted(TAKEN in log for log in logs) == [False, True, True, True]
    assert "a pool of 3,564 token pairs" in next(log for log in logs if TAKEN not in log)
    for training in TRAININGS:
        audit = live.crossdiff("audit", f"results/tiny/layer1/{training}/evaluation.json")
        assert audit.returncode == 0, audit.stdout


def test_the_front_door_knows_the_models_and_the_sample(live: Checkout) -> None:
    crosscoder = crossdiff.load(live.folder / "results/tiny/layer1/l1/seed0")
    assert tuple(crosscoder.names) == ("tiny-base", "tiny-chat")


def test_a_crosscoder_that_is_added_trains_itself_alone(live: Checkout) -> None:
    values = yaml.safe_load((live.folder / TINY).read_text())["crosscoders"]
    config = live.changed(TINY, LIVE | {"crosscoders": values | {"another": values["l1"]}}, "more")
    result = live.snakemake("crosscoders", "--dry-run", "--configfile", config)
    assert planned(result.stdout) == {"crosscoders": 1, "train_live": 2}


def test_another_sample_keeps_validation_and_harvests_itself(live: Checkout) -> None:
    config = live.changed(TINY, LIVE | {"activations.sample_tokens": 6000}, "larger")
    jobs = planned(live.snakemake("crosscoders", "--dry-run", "--configfile", config).stdout)
    assert jobs == {
        "draw_sample": 1,
        "harvest_activations": 4,
        "summarise_activations": 1,
        "train_live": 4,  # the summary's mean and scale come from the sample
        "crosscoders": 1,
    }


def test_a_sample_with_too_few_documents_stops_before_any_harvest(live: Checkout, tmp_path: Path) -> None:
    ours = live.copy(tmp_path / "ours")
    config = ours.changed(TINY, LIVE | {"activations.sample_tokens": 600}, "small")
    shutil.rmtree(ours.folder / "results/activations")
    result = ours.snakemake("crosscoders", "--configfile", config)
    assert result.returncode == 1 and not list((ours.folder / "results").rglob("*.h5"))
    log = (ours.folder / "logs/tokens/tiny-chat/draw_sample.log").read_text()
    found = "found 600, which hold 6 documents, allowed: 30 documents or more"
    assert f"error: activations.sample_tokens: {found}" in log


def test_the_whole_run_says_what_was_measured_on_a_sample(live: Checkout, tmp_path: Path) -> None:
    ours = live.copy(tmp_path / "ours")
    result = ours.snakemake("--configfile", "configs/live.yaml")
    assert result.returncode == 0, result.stdout
    page = " ".join((ours.folder / "results/tiny/layer1/report/index.html").read_text().split())
    assert (
        "Both read the same training tokens of readme (documents, 6,000), requests (chats, 12,000)." in page
    )
    assert "it says of a random sample of 4,999 tokens" in page
    audit = ours.crossdiff("audit", "--all", "--configfile", "configs/live.yaml")
    assert audit.returncode == 0, audit.stdout
