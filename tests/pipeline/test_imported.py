"""A crosscoder that others trained goes through every later stage, and a wrong one is refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TINY, Checkout, planned
from safetensors.torch import load_file, save_file

from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.crosscoders.published import write_published
from crossdiff.provenance.records import read_record

TRAINED = "results/tiny/layer1/batchtopk/seed0"
THEIRS = "results/tiny/layer1/theirs/seed0"
LATENTS = 128


@pytest.fixture(scope="module")
def published(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first crosscoder of the tiny run, in the format of the authors."""
    folder = tmp_path_factory.mktemp("published") / "theirs"
    trained = finished.folder / TRAINED
    crosscoder = load_crosscoder(trained / "weights.safetensors", trained / "config.json")
    write_published(crosscoder, 8, folder)
    return folder


@pytest.fixture(scope="module")
def run(finished: Checkout, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The tiny run with that crosscoder next to those that it trains."""
    copy = finished.copy(tmp_path_factory.mktemp("imported") / "run")
    config = copy.changed(TINY, {"crosscoders.theirs": importing(published)}, "importing")
    jobs = planned(copy.snakemake("-n", "--configfile", config).stdout)
    assert jobs["import_crosscoder"] == jobs["scale_latents"] == jobs["steer_latents"] == 1  # of one seed
    assert "train_crosscoder" not in jobs and "harvest_activations" not in jobs
    result = copy.snakemake("-c2", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return copy


def importing(folder: Path | str, **more: object) -> dict[str, object]:
    return {"import": {"folder": str(folder), "layer": 1, "latents": LATENTS, "loss": "batchtopk"} | more}


def refusal(checkout: Checkout, folder: Path, **more: object) -> str:
    """What a run says of an import, up to the job that makes its files and those that read them."""
    config = checkout.changed(TINY, {"crosscoders.theirs": importing(folder, **more)}, "refused")
    result = checkout.snakemake(f"{THEIRS}/reconstruction.json", "-c2", "--configfile", config)
    assert result.returncode != 0
    assert (
        not (checkout.folder / f"{THEIRS}/weights.safetensors").exists()
        or "explains nothing" in result.stdout
    )
    return result.stdout


def test_later_stages_find_what_they_find_of_the_same_crosscoder_trained_here(run):
    ours, theirs = (pd.read_parquet(run.folder / place / "betas.parquet") for place in (TRAINED, THEIRS))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-6)
    found, same = (
        json.loads((run.folder / place / "evaluation.json").read_text()) for place in (TRAINED, THEIRS)
    )
    assert found["classes"] == same["classes"] and found["fve_chat"] == pytest.approx(same["fve_chat"], 1e-5)
    assert not (run.folder / THEIRS / "training.csv").exists()


def test_page_and_tables_say_that_others_trained_it(run):
    page = (run.folder / "results/tiny/layer1/report/index.html").read_text()
    assert "batchtopk, trained by others" in page
    table = pd.read_csv(run.folder / "results/tiny/layer1/tables/crosscoders.csv")
    assert set(table[table.crosscoder == "theirs"].seed) == {0} and len(table) == 5


def test_record_names_the_files_and_audit_verifies_them(run, published):
    record = read_record(run.folder / THEIRS / "weights.safetensors")
    assert {Path(entry.path).name for entry in record.inputs if entry.name == "files"} == {
        "model.safetensors",
        "config.json",
    }
    assert record.settings["crosscoders.theirs.import.loss"] == "batchtopk"
    result = run.crossdiff("audit", f"{THEIRS}/betas.parquet")
    assert result.returncode == 0, result.stdout


def test_export_says_that_others_trained_it_and_names_no_local_path(run, published, tmp_path):
    result = run.crossdiff("export", THEIRS, "--to", "hub", str(tmp_path / "hub"))
    assert result.returncode == 0, result.stdout
    card = (tmp_path / "hub/README.md").read_text()
    assert "| trained by | others; taken from local files |" in card and "| loss | batchtopk |" in card
    assert "tokens of training" not in card
    assert str(published) not in card + (tmp_path / "hub/config.json").read_text()


def test_checkpoint_of_the_authors_is_read_and_one_with_code_is_refused(ours, published, tmp_path):
    tensors = load_file(published / "model.safetensors")
    plain = tmp_path / "plain"
    plain.mkdir()
    torch.save(tensors, plain / "ae_final.pt")
    config = ours.changed(TINY, {"crosscoders.theirs": importing(plain)}, "plain")
    result = ours.snakemake(f"{THEIRS}/weights.safetensors", "-c2", "--configfile", config)
    assert result.returncode == 0, result.stdout
    made = load_file(ours.folder / THEIRS / "weights.safetensors")
    assert torch.equal(made["encoder"], load_file(ours.folder / TRAINED / "weights.safetensors")["encoder"])
    shutil.rmtree(ours.folder / THEIRS)
    torch.save(torch.nn.Linear(2, 2), plain / "ae_final.pt")
    assert "allowed: weights without pickled code" in refusal(ours, plain)


def test_what_does_not_fit_is_one_line(ours, published, tmp_path):
    wrong = "crosscoders.theirs.import: found a crosscoder with latents 128, allowed: 64, which"
    assert wrong in refusal(ours, published, latents=64)
    assert "import.layer: found 2, allowed: 1, the pair's layer" in refusal(ours, published, layer=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"import.folder: {empty}: found none of the files that hold a crosscoder" in refusal(ours, empty)
    narrow = tmp_path / "narrow"
    trained = ours.folder / TRAINED
    crosscoder = load_crosscoder(trained / "weights.safetensors", trained / "config.json")
    half = type(crosscoder)(16, LATENTS, 1)
    write_published(half, 8, narrow)
    assert "found a crosscoder with d_model 16, allowed: 32, which the pair's models have" in refusal(
        ours, narrow
    )


def test_crosscoder_of_other_models_is_refused(ours, published, tmp_path):
    other = shutil.copytree(published, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["decoder.weight"] *= -1
    save_file(tensors, other / "model.safetensors")
    said = refusal(ours, other)
    assert (
        "the imported crosscoder explains nothing of this pair's activations at layer 1 (FVE of base -"
        in said
    )
