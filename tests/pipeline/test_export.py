"""``crossdiff export`` on a finished run: each format holds what the training holds, and names its record."""

import json
import shutil
from pathlib import Path

import httpx2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY, Checkout
from safetensors.numpy import load_file

import crossdiff
from crossdiff.cli import main
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.crosscoders.published import read_published
from crossdiff.exchange import delphi, hub
from crossdiff.exchange.neuronpedia import Batch
from crossdiff.provenance.records import embedded_id, read_record
from crossdiff.results.loading import SHARED
from crossdiff.texts.shards import read_shard

LATENTS = 128


@pytest.fixture(scope="module")
def training(finished: Checkout) -> Path:
    return finished.folder / "results/tiny/layer1/batchtopk/seed0"


def export(training: Path, to: str, folder: Path, *more: str) -> Path:
    assert main(["export", str(training), "--to", to, str(folder), *more]) == 0
    return folder


def as_downloaded(folder: Path, to: Path) -> Path:
    """What the front door downloads of a hub folder."""
    to.mkdir()
    for pattern in SHARED:
        for path in folder.glob(pattern):
            shutil.copy(path, to)
    return to


def test_hub_folder_is_opened_by_the_front_door_and_describes_itself(training, tmp_path):
    folder = export(training, "hub", tmp_path / "hub")
    loaded, ours = crossdiff.load(as_downloaded(folder, tmp_path / "cache")), crossdiff.load(training)
    assert loaded.names == ours.names
    assert torch.equal(loaded.module.encoder, ours.module.encoder)
    assert loaded.table().equals(ours.table().assign(name=pd.NA, named_by=pd.NA))
    card = (folder / "README.md").read_text()
    evaluation = json.loads((training / "evaluation.json").read_text())
    assert f"| active latents per token (L0) | {evaluation['l0']:.1f} |" in card
    assert "| base model | tiny-base |" in card and "| texts | readme (" in card
    assert embedded_id(folder / "README.md") == read_record(training / "weights.safetensors").id
    assert "| chat model | tiny-chat (a fine-tune of the base model, made by the run) |" in card
    figures = {path.name for path in (training.parents[1] / "figures").glob("*.svg")}
    assert {path.name for path in (folder / "figures").glob("*.svg")} == figures
    assert all(f"(figures/{name})" in card for name in figures)
    other = export(training.with_name("seed1"), "hub", tmp_path / "other")
    assert not (other / "figures").exists()  # they show the first seed
    assert "figures/" not in (other / "README.md").read_text()


def test_files_of_exports_resolve_to_the_run_by_their_record(training, finished, tmp_path):
    folder = export(training, "hub", tmp_path / "hub")
    result = finished.crossdiff("audit", str(folder))
    files = len(list(folder.rglob("*.record.json")))
    assert result.returncode == 0, result.stdout
    assert f"from results/tiny/layer1/batchtopk/seed0; {files} of {files} files are byte" in result.stdout
    assert "without a record: README.md" in result.stdout
    (folder / "weights.safetensors.record.json").unlink()
    result = finished.crossdiff("audit", str(folder / "weights.safetensors"))
    assert result.returncode == 0 and "batchtopk/seed0/weights.safetensors" in result.stdout, result.stdout
    for path in (
        export(training, "authors", tmp_path / "authors") / "model.safetensors",
        next(export(training, "delphi", tmp_path / "delphi").rglob("*.safetensors")),
    ):
        assert embedded_id(path) == read_record(training / "weights.safetensors").id
        result = finished.crossdiff("audit", str(path))
        assert "is not byte for byte what the record of results/tiny/layer1/batchtopk" in result.stdout


@pytest.mark.parametrize("name", ["batchtopk", "l1"])
def test_authors_format_encodes_the_same(training, tmp_path, name):
    own = training.parents[1] / name / "seed0"
    found = read_published(export(own, "authors", tmp_path / "authors"), layer=1)
    ours = crossdiff.load(own).module
    assert found.k == json.loads((own / "config.json").read_text())["training"].get("k")
    x = torch.randn(16, 2, ours.d_model, generator=torch.Generator().manual_seed(0))
    for crosscoder in (found.crosscoder, ours):
        crosscoder.precision = "float32"
    assert torch.equal(found.crosscoder.encode(found.crosscoder.normalise(x)), ours.encode(ours.normalise(x)))


def test_neuronpedia_gets_every_latent_that_fires(training, tmp_path):
    folder = export(training, "neuronpedia", tmp_path / "neuronpedia")
    batches = [Batch.model_validate_json(path.read_text()) for path in sorted(folder.glob("batch-*.json"))]
    assert {(batch.modelId, batch.source) for batch in batches} == {("tiny-chat", "1-tiny-batchtopk-seed0")}
    features = [feature for batch in batches for feature in batch.features]
    examples = pd.read_parquet(training / "examples.parquet")
    table = crossdiff.load(training).table().set_index("latent")
    fired = table.index[table.frequency > 0].tolist()  # all of this short text is searched for contexts
    assert [feature.index for feature in features] == fired
    for feature in features:
        assert feature.density == table.frequency[feature.index]
        assert len(feature.topLogits) == len(feature.bottomLogits) == 10
        assert [one.text for one in feature.explanations] == [table.name[feature.index]]
        strongest = examples[(examples.latent == feature.index) & examples.strongest]
        peak = max(max(one.values) for one in feature.activations)
        assert peak == pytest.approx(strongest.peak.max(), rel=1e-5)
        assert all(len(one.tokens) == len(one.values) for one in feature.activations)


def test_delphi_gets_every_activation(training, finished, tmp_path):
    [home] = (export(training, "delphi", tmp_path / "delphi") / "latents").iterdir()
    config = json.loads((home / "config.json").read_text())
    [file] = home.glob("*.safetensors")
    found = load_file(file)
    assert (home.name, file.name) == ("layer1.batchtopk.seed0", f"0_{LATENTS - 1}.safetensors")
    assert config["ctx_len"] == yaml.safe_load((finished.folder / TINY).read_text())["tokens"]["context"]
    record = read_record(training / "active.train.parquet")
    shards = [read_shard(finished.folder / entry.path) for entry in record.inputs if entry.name == "tokens"]
    text = np.concatenate([shard.token for shard in shards])
    length, windows = config["ctx_len"], len(text) // config["ctx_len"]
    assert found["tokens"].shape == (windows, length)
    assert np.array_equal(found["tokens"].ravel(), text[: windows * length])
    starts = np.cumsum([0, *(len(shard.token) for shard in shards)])
    expected = {
        (int(row + starts[part.shard]), int(latent)): value
        for part in ActiveFile(training / "active.train.parquet")
        for row, latent, value in zip(
            np.repeat(part.rows, np.diff(part.bounds)), part.latent, part.value, strict=True
        )
        if row + starts[part.shard] < windows * length
    }
    window, token, latent = found["locations"].T.astype(int)
    given = dict(zip(zip(window * length + token, latent, strict=True), found["activations"], strict=True))
    assert given.keys() == expected.keys()
    assert all(given[key] == np.float16(value) for key, value in expected.items())


def test_delphi_gets_files_of_a_bounded_size(training, tmp_path, monkeypatch):
    [whole] = export(training, "delphi", tmp_path / "one").rglob("*.safetensors")
    monkeypatch.setattr(delphi, "ENTRIES_AT_ONCE", 2000)
    files = list(export(training, "delphi", tmp_path / "many").rglob("*.safetensors"))
    assert len(files) > 5
    bounds = sorted(tuple(map(int, path.stem.split("_"))) for path in files)
    assert [first for first, _ in bounds] == [0, *(last + 1 for _, last in bounds[:-1])]
    assert bounds[-1][1] == LATENTS - 1
    together = []
    for path in sorted(files, key=lambda path: int(path.stem.split("_")[0])):
        found = load_file(path)["locations"].astype(int)
        found[:, 2] += int(path.stem.split("_")[0])
        together.append(found)
    assert np.array_equal(np.concatenate(together), load_file(whole)["locations"])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_can_not_be_exported_is_one_line_and_writes_nothing(training, ours, tmp_path, capsys):
    target = tmp_path / "there"
    target.mkdir()
    (target / "file").write_text("mine")
    to_hub = ("--to", "hub")
    assert "is there and not empty" in refusal(capsys, str(training), *to_hub, str(target))
    new = str(tmp_path / "new")
    assert "allowed: --to hub" in refusal(capsys, str(training), "--to", "delphi", new, "--push", "me/it")
    assert "found no crosscoder" in refusal(capsys, str(training.parents[1] / "figures"), *to_hub, new)
    own = ours.folder / training.relative_to(training.parents[4])
    alone = shutil.copytree(own, tmp_path / "alone")
    assert "moved away from its run" in refusal(capsys, str(alone), *to_hub, new)
    (alone / "weights.safetensors.record.json").unlink()
    assert "has no record of what it was made from" in refusal(capsys, str(alone), *to_hub, new)
    (own / "examples.parquet").unlink()
    assert "examples.parquet: not there" in refusal(capsys, str(own), "--to", "neuronpedia", new)
    shutil.copy(training.with_name("seed1") / "active.train.parquet", own)
    assert "active.train.parquet: stale" in refusal(capsys, str(own), "--to", "delphi", new)
    with (own / "betas.parquet").open("ab") as file:
        file.write(b"more")
    assert "betas.parquet: stale" in refusal(capsys, str(own), *to_hub, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "ours", "there"]


def test_folder_goes_to_the_hub_only_when_asked(training, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **_: calls.append(name))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder", lambda self, **given: calls.append(given) or "https://there"
    )
    folder = export(training, "hub", tmp_path / "one")
    assert not calls
    export(training, "hub", tmp_path / "two", "--push", "me/it")
    assert calls == ["me/it", {"repo_id": "me/it", "folder_path": tmp_path / "two"}]
    assert "on the hub: https://there" in capsys.readouterr().out

    def refused(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("no")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    with pytest.raises(crossdiff.UserError, match=r"me/it: the hub does not take it \(no\).*hf upload me/it"):
        hub.push(folder, "me/it")
