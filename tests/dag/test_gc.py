"""Results that no config needs, and caches on another file system, with real plans."""

import shutil

import pytest
from conftest import TINY, Checkout, planned

CACHES = "results/activations"
CACHE = f"{CACHES}/tiny-base/layer1/tiny-chat/requests.train/0000.h5"


def jobs(checkout: Checkout, config: str) -> dict[str, int]:
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return planned(result.stdout)


def smaller(checkout: Checkout) -> str:
    """The tiny config without one crosscoder and without one data set's second shard."""
    changes = {"crosscoders.l1": None, "steering.latents": None, "datasets.requests.tokens": 6000}
    return checkout.changed(TINY, changes, "smaller")


def test_finished_run_needs_all_of_its_results(finished: Checkout) -> None:
    result = finished.crossdiff("gc", TINY)
    assert (result.returncode, result.stdout) == (0, "Every result is needed.\n")


def test_what_a_smaller_config_does_not_need_goes_and_nothing_else_does(ours: Checkout) -> None:
    config = smaller(ours)
    before = jobs(ours, config)
    listed = ours.crossdiff("gc", config)
    assert listed.returncode == 0
    groups = {line.split()[-1] for line in listed.stdout.splitlines() if line.startswith("  ")}
    assert groups - {"all"} == {
        "results/tiny/layer1/l1",
        "results/tokens/tiny-chat/requests.train",
        *(f"{CACHES}/tiny-{role}/layer1/tiny-chat/requests.train" for role in ("base", "chat")),
    }
    assert f"Some were made with {TINY}: name these too" in listed.stdout
    assert ours.crossdiff("gc", config, TINY).stdout == "Every result is needed.\n"
    assert ours.crossdiff("gc", config, "--delete").returncode == 0
    assert not (ours.folder / "results/tiny/layer1/l1").exists()
    assert ours.crossdiff("gc", config).stdout == "Every result is needed.\n"
    assert jobs(ours, config) == before
    again = jobs(ours, TINY)
    assert again["train_crosscoder"] == again["scale_latents"] == 4  # the old ones read two shards' caches
    assert again["tokenise"] == 1 and again["harvest_activations"] == 2


def test_other_layer_and_other_model_are_told_by_their_folders(ours: Checkout) -> None:
    config = ours.changed(TINY, {"pair.layer": 0, "pair.chat.name": "other", "pair.name": "new"}, "other")
    listed = ours.crossdiff("gc", config).stdout
    groups = [line.split()[-1] for line in listed.splitlines() if line.startswith("  ")]
    assert set(groups) == {
        *(f"results/{kind}/tiny-chat" for kind in ("models", "tokens", "tokenizers", "activations")),
        *(f"results/{kind}/tiny-base" for kind in ("models", "activations")),
        "results/models",  # the log of the fine-tuning
        "results/tiny",
        "all",
    }
    kept = ours.changed(TINY, {"pair.layer": 0}, "layer")
    listed = ours.crossdiff("gc", kept).stdout
    groups = [line.split()[-1] for line in listed.splitlines() if line.startswith("  ")]
    layers = {f"{CACHES}/tiny-{role}/layer1" for role in ("base", "chat")}
    assert set(groups) == {"results/tiny/layer1", *layers, "all"}


def test_config_that_cannot_be_planned_deletes_nothing(ours: Checkout) -> None:
    (ours.folder / "runs").mkdir()
    shutil.copy(ours.folder / smaller(ours), ours.folder / "runs/a.yaml")
    shutil.copy(ours.folder / ours.changed(TINY, {"seed": 7}), ours.folder / "runs/b.yaml")
    result = ours.crossdiff("gc", "runs", "--delete")
    assert result.returncode == 2
    [line] = result.stdout.splitlines()
    assert line.startswith("error: runs/b.yaml: Snakemake can't plan this run (")
    assert "(config: seed: unknown key; did you mean seeds?" in line
    assert "; what it needs is unknown, so nothing is deleted: mend it" in line
    assert (ours.folder / "results/tiny/layer1/l1/seed0/weights.safetensors").exists()


@pytest.fixture
def on_scratch(ours: Checkout) -> tuple[Checkout, str]:
    """A finished run whose caches were moved to another folder, and a config that says so."""
    config = ours.changed(TINY, {"activations.folder": "../scratch"}, "scratch")
    result = ours.snakemake("--dry-run", "--configfile", config)
    [line] = [line for line in result.stdout.splitlines() if line.startswith("activations.folder:")]
    assert ours.run("-c", f"import os; os.system({line.partition('move them: ')[2]!r})").returncode == 0
    assert (ours.folder / CACHES).is_symlink()
    return ours, config


def test_caches_that_were_moved_rerun_nothing_and_stay_verified(on_scratch: tuple[Checkout, str]) -> None:
    ours, config = on_scratch
    assert jobs(ours, config) == jobs(ours, TINY) == {}
    for arguments in (["--all"], [CACHE], [str(ours.folder / CACHE)], [str((ours.folder / CACHE).resolve())]):
        audit = ours.crossdiff("audit", *arguments)
        assert audit.returncode == 0 and "files verified" in audit.stdout, audit.stdout
    assert ours.crossdiff("gc", config).stdout == "Every result is needed.\n"
    (ours.folder / CACHES).unlink()
    assert jobs(ours, config) == {}  # the folder is found again
    assert (ours.folder / CACHES).is_symlink()


def test_purged_cache_is_named_and_made_again_on_scratch(on_scratch: tuple[Checkout, str]) -> None:
    ours, config = on_scratch
    for name in ("0000.h5", "0000.h5.record.json"):
        (ours.folder / CACHE).with_name(name).unlink()
    audit = ours.crossdiff("audit", "--all")
    assert audit.returncode == 1 and f"! {CACHE}: file missing (and its record)" in audit.stdout
    assert "1 of " in audit.stdout.splitlines()[-1]
    assert jobs(ours, config) == {}  # no job needs it now
    changed = ours.changed(config, {"activations.skip_first": 2}, "changed")
    assert jobs(ours, changed)["harvest_activations"] == 1
    result = ours.snakemake(CACHE, "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert ours.crossdiff("audit", "--all").returncode == 0
    assert (ours.folder / CACHE).resolve().is_relative_to((ours.folder.parent / "scratch").resolve())


def test_purged_folder_stops_a_run_with_one_line(on_scratch: tuple[Checkout, str]) -> None:
    ours, config = on_scratch
    shutil.rmtree(ours.folder.parent / "scratch")
    for given in (config, TINY):
        result = ours.snakemake("--dry-run", "--configfile", given)
        assert result.returncode == 1 and "Traceback" not in result.stdout
        assert f"{CACHES}: found a link to {ours.folder.parent}/scratch/ours-" in result.stdout
        assert f"({CACHES}: found a link to" in ours.crossdiff("gc", given).stdout


def test_unneeded_caches_are_deleted_on_scratch_and_other_checkouts_stay(
    on_scratch: tuple[Checkout, str],
) -> None:
    ours, config = on_scratch
    other = ours.folder.parent / "scratch/other-0123abcd"
    shutil.copytree(ours.folder / CACHES, other)
    without = ours.changed(config, {"pair.layer": 0}, "layer")
    assert ours.crossdiff("gc", without, "--delete").returncode == 0
    assert list((ours.folder / CACHES).iterdir()) == []
    assert (other / "tiny-base/layer1/tiny-chat/requests.train/0000.h5").exists()
