"""A run reads activations that others stored in place of a harvest, and tells which store is wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Checkout, planned
from helpers_stores import write_store

from crossdiff.activations.cache import read_rows
from crossdiff.provenance.records import read_record
from crossdiff.texts.shards import read_shard

MODELS = ("tiny-base", "tiny-chat")
SPLITS = ("train", "validation")
CACHE = "results/activations/{model}/layer1/*/readme.{split}/0000.h5"


def cache(checkout: Checkout, model: str, split: str) -> Path:
    [path] = checkout.folder.glob(CACHE.format(model=model, split=split))
    return path


def stored(checkout: Checkout, model: str, split: str) -> torch.Tensor:
    return read_rows(cache(checkout, model, split), 0, 10_000)


@pytest.fixture
def with_stores(ours: Checkout) -> Checkout:
    """The finished tiny run, and its caches of ``readme`` as the paper's authors store activations."""
    for split in SPLITS:
        [tokens] = ours.folder.glob(f"results/tokens/*/readme.{split}/0000.parquet")
        shard = read_shard(tokens)
        sequences = np.split(shard.token, shard.sequence_starts()[1:])
        for model in MODELS:
            values = stored(ours, model, split)
            folder = ours.folder / f"stores/{model}/readme/{split}/layer_1_out"
            write_store(folder, sequences, values, torch.bfloat16, rows=2500, ranges=True)
    return ours


def config_of(checkout: Checkout, **folders: str) -> str:
    """Write the tiny config with these stores; give its path. ``folders``: other stores of the base."""
    named = {
        split: {model: f"stores/{model}/readme/{split}/layer_1_out" for model in MODELS} for split in SPLITS
    }
    named["train"]["tiny-base"] = folders.get("base", named["train"]["tiny-base"])
    return checkout.changed(TINY, {"datasets.readme.activations": named}, "stored")


def jobs(checkout: Checkout, config: str) -> dict[str, int]:
    result = checkout.snakemake("activations", "-n", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return {rule: count for rule, count in planned(result.stdout).items() if rule != "activations"}


@pytest.mark.slow
def test_stored_activations_are_read_and_nothing_is_harvested(with_stores: Checkout) -> None:
    run, config = with_stores, config_of(with_stores)
    before = {(model, split): stored(run, model, split) for model in MODELS for split in SPLITS}
    shutil.rmtree(run.folder / "results/activations/tiny-chat/layer1")  # the chats' caches are harvested
    found = jobs(run, config)
    assert (found["check_store"], found["read_activations"]) == (4, 4)
    assert found["harvest_activations"] == 3  # of tiny-chat: two training shards and one of validation
    for path in [cache(run, "tiny-base", split) for split in SPLITS]:
        path.unlink()
    result = run.snakemake("activations", "-c2", "--configfile", config)
    assert result.returncode == 0, result.stdout
    for (model, split), values in before.items():
        assert torch.equal(stored(run, model, split), values)
        record = read_record(cache(run, model, split))
        key = f"datasets.readme.activations.{split}.{model}"
        assert record.rule == "read_activations"
        assert record.settings == {"pair.layer": 1, key: f"stores/{model}/readme/{split}/layer_1_out"}
    assert jobs(run, config) == {}
    shard = run.folder / "stores/tiny-chat/readme/train/layer_1_out/shard_1.memmap"
    shard.write_bytes(bytes(2) + shard.read_bytes()[2:])
    assert jobs(run, config) == {"check_store": 1, "read_activations": 1}
    assert jobs(run, TINY) == {"harvest_activations": 4}


@pytest.mark.slow
def test_store_of_the_other_model_is_refused(with_stores: Checkout) -> None:
    run, other = with_stores, "stores/tiny-chat/readme/train/layer_1_out"
    config = config_of(run, base=other)
    path = cache(run, "tiny-base", "train")
    target = path.relative_to(run.folder).as_posix()
    result = run.snakemake(target, "-c2", "--configfile", config)
    assert result.returncode != 0
    said = "datasets.readme.activations.train.tiny-base: differs from the model's own activations by"
    assert said in result.stdout and not path.exists()


def test_folder_that_is_not_there_is_one_line(checkout: Checkout) -> None:
    config = config_of(checkout, base="elsewhere/layer_1_out")
    result = checkout.snakemake("-n", "--configfile", config)
    key = "config: datasets.readme.activations.train.tiny-base"
    assert result.returncode != 0
    assert f"{key}: found elsewhere/layer_1_out, which is not there" in result.stdout
    (checkout.folder / "elsewhere/layer_1_out").mkdir(parents=True)
    result = checkout.snakemake("-n", "--configfile", config)
    assert (
        f"{key}: found elsewhere/layer_1_out, allowed: a folder with shard_0.memmap and so on"
        in result.stdout
    )
