"""The latent browser and the catalogue in a finished run."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, Checkout

from crossdiff.latents.catalogue import weights_digest
from crossdiff.report.browser.contents import CHUNK

PAGE = "results/tiny/layer1/report/latents/index.html"
TRAININGS = {"batchtopk.seed0": 128, "batchtopk.seed1": 128, "l1.seed0": 96, "l1.seed1": 96}


@pytest.fixture(scope="module")
def files(finished: Checkout) -> Path:
    return finished.folder / Path(PAGE).parent / "files"


def piece(files: Path, name: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode((files / f"{name}.js").read_text().split('"')[3])))


def test_every_latent_of_every_training_is_there(files: Path) -> None:
    index = piece(files, "index")
    assert {training["name"]: training["latents"] for training in index["trainings"]} == TRAININGS
    assert [training["link"] for training in index["trainings"]] == [
        "batchtopk",
        "batchtopk.seed1",
        "l1",
        "l1.seed1",
    ]
    for name, latents in TRAININGS.items():
        folder = files.parents[2] / name.replace(".", "/")
        betas = pd.read_parquet(folder / "betas.parquet")
        content = piece(files, f"{name}/table")
        assert content["weights"] == weights_digest(folder / "weights.safetensors")
        assert content["columns"]["class"] == betas["class"].tolist()
        assert content["columns"]["norm_chat"] == pytest.approx(betas.norm_chat.tolist(), rel=1e-3)
        assert {row["set"] for row in content["kl_sets"]} >= {"best_norm", "worst_norm", "random_1"}
        assert sum(len(piece(files, f"{name}/{first}")) for first in range(0, latents, CHUNK)) == latents


def test_contexts_are_those_that_were_read(files: Path) -> None:
    examples = pd.read_parquet(files.parents[2] / "l1/seed1/examples.parquet")
    vocabulary = piece(files, "vocabulary")
    for latent, details in enumerate(piece(files, "l1.seed1/64"), start=64):
        expected = examples[(examples.latent == latent) & examples.strongest]
        found = [context for context in details["contexts"] if context["strongest"]]
        assert [max(value for _, value in context["active"]) for context in found] == pytest.approx(
            expected.peak.tolist(), rel=1e-3
        )
        assert [len(context["tokens"]) for context in found] == expected.tokens.map(len).tolist()
        assert all(0 <= token < len(vocabulary) for context in found for token in context["tokens"])
        assert expected.empty or len(details["promoted"]) == len(details["suppressed"]) == 10


def test_live_latents_are_compared_with_every_other_training(files: Path) -> None:
    columns = piece(files, "l1.seed0/table")["columns"]
    for details, name in zip(piece(files, "l1.seed0/0"), columns["class"], strict=False):
        assert sorted(other[0] for other in details["elsewhere"]) == ([] if name == "dead" else [0, 1, 3])
        assert len(details["near"]) == (0 if name == "dead" else 5)


def test_report_leads_to_the_browser_and_flags_the_stale_name(finished: Checkout, files: Path) -> None:
    report = (finished.folder / "results/tiny/layer1/report/index.html").read_text()
    assert 'href="latents/index.html#batchtopk/' in report
    assert "a stale name (batchtopk, seed 0, latent 3)" in report
    assert piece(files, "batchtopk.seed0/table")["stale"] == [
        {"latent": 3, "name": "a stale name", "weights": "0" * 12}
    ]
    assert not any(piece(files, "batchtopk.seed0/table")["columns"]["name"])


def test_name_given_to_these_weights_is_carried_everywhere(finished: Checkout, tmp_path: Path) -> None:
    ours = finished.copy(tmp_path / "ours")
    digest = weights_digest(ours.folder / "results/tiny/layer1/l1/seed0/weights.safetensors")
    leaning = pd.read_parquet(ours.folder / "results/tiny/layer1/l1/seed0/betas.parquet")
    latent = int(leaning[leaning["class"] != "dead"].relative_norm_difference.idxmax())
    entry = f'{{crosscoder: l1, weights: "{digest}", latent: %s, name: the <b> one}}'
    catalogue = ours.folder / "tests/data/catalogue.yaml"
    catalogue.write_text(f"latents:\n  - {entry % latent}\n")
    result = ours.snakemake("--configfile", TINY)
    assert result.returncode == 0, result.stdout
    names = piece(ours.folder / Path(PAGE).parent / "files", "l1.seed0/table")["columns"]["name"]
    assert {number: name for number, name in enumerate(names) if name} == {latent: "the <b> one"}
    for page in (PAGE, "results/tiny/layer1/report/index.html"):
        assert "the &lt;b&gt; one" in (ours.folder / page).read_text()
        assert "the <b> one" not in (ours.folder / page).read_text()
    # A latent that the weights do not have: the one line, and what was there stays.
    catalogue.write_text(f"latents:\n  - {entry % 96}\n")
    result = ours.snakemake("results/tiny/layer1/tables/names.csv", "--configfile", TINY)
    assert result.returncode == 1
    assert (
        "error: tests/data/catalogue.yaml: latents.0.latent: found 96, allowed in l1: 0 to 95"
        in result.stdout
    )


def test_catalogue_of_another_run_stops_before_any_job(checkout: Checkout) -> None:
    (checkout.folder / "tests/data/catalogue.yaml").write_text(
        'latents: [{crosscoder: l2, weights: "000000000000", latent: 0, name: a}]'
    )
    result = checkout.snakemake("--dry-run", "--configfile", TINY)
    assert result.returncode == 1
    assert (
        "tests/data/catalogue.yaml: latents.0: found l2 seed 0, allowed: batchtopk seed 0, batchtopk seed 1, "
        "l1 seed 0" in result.stdout
    )
    assert "Traceback" not in result.stdout
