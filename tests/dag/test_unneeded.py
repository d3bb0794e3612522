"""Results that no config needs, and caches on another file system, with real plans."""

import json
import shutil

import pytest
import yaml
from conftest import TINY, Checkout, planned
from helpers_chain import RUN

from crossdiff.provenance.hashing import content
from crossdiff.provenance.planned_jobs import PLAN, PlannedJob
from crossdiff.provenance.records import Record, RecordedFile, write_record

PAIRS = "configs/tiny-pairs.yaml"
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


# Several pairs and layers. Every result is pretended: what is needed comes from the plan.


def plan_of(checkout: Checkout, config: str) -> dict[str, PlannedJob]:
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 0, result.stdout
    _, _, told = (checkout.folder / PLAN).read_text().partition("\n")
    return {output: PlannedJob(*job) for output, job in json.loads(told).items()}


@pytest.fixture
def pretended(checkout: Checkout) -> Checkout:
    """A checkout with a file and a record for every output of two pairs at two layers."""
    for output, job in plan_of(checkout, PAIRS).items():
        path = checkout.folder / output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(output)
        made = RecordedFile.of("", output, content(path))
        record = Record("0" * 32, job.rule, {}, job.params, {}, [], [made], RUN | {"config": [PAIRS]})
        write_record(path, record)
    return checkout


def unneeded(checkout: Checkout, config: str) -> tuple[set[str], set[str]]:
    """Delete what a config does not need; give the groups that were listed, and the files that are gone."""
    files = {path for path in (checkout.folder / "results").rglob("*") if not path.name.endswith(".json")}
    result = checkout.crossdiff("gc", config, "--delete")
    assert result.returncode == 0, result.stdout
    groups = {line.split()[-1] for line in result.stdout.splitlines() if line.startswith("  ")}
    gone = {path.relative_to(checkout.folder).as_posix() for path in files if not path.exists()}
    return groups - {"all"}, gone


def outputs_only_of(checkout: Checkout, config: str) -> set[str]:
    """The outputs that two pairs at two layers have and this config does not."""
    gone = plan_of(checkout, PAIRS).keys() - plan_of(checkout, config).keys()
    return {path for path in gone if not path.endswith(".json")}


def test_removed_pair_goes_with_all_that_is_its_own_and_nothing_else_does(pretended: Checkout) -> None:
    assert pretended.crossdiff("gc", PAIRS).stdout == "Every result is needed.\n"
    values = yaml.safe_load((pretended.folder / PAIRS).read_text())
    del values["models"]["tiny-other"], values["pairs"]["tiny-second"]
    (pretended.folder / "one.yaml").write_text(yaml.safe_dump(values))
    own = outputs_only_of(pretended, "one.yaml")
    assert {path.split("/")[2] for path in own if "/activations/" in path} == {"tiny-other"}
    groups, gone = unneeded(pretended, "one.yaml")
    assert groups == {"results/tiny-second", "results/models", f"{CACHES}/tiny-other"}
    assert own <= gone
    assert all((pretended.folder / output).exists() for output in plan_of(pretended, "one.yaml"))


def test_removed_layer_goes_from_every_pair_and_model(pretended: Checkout) -> None:
    values = yaml.safe_load((pretended.folder / PAIRS).read_text())
    for pair in values["pairs"].values():
        pair["layers"] = [1]
    (pretended.folder / "layer.yaml").write_text(yaml.safe_dump(values))
    own = outputs_only_of(pretended, "layer.yaml")
    groups, gone = unneeded(pretended, "layer.yaml")
    models = ("tiny-base", "tiny-chat", "tiny-other")
    assert groups == {
        "results/tiny/layer0",
        "results/tiny-second/layer0",
        "results/overview/figures",  # there is none over a single layer
        *(f"{CACHES}/{name}/layer0" for name in models),
    }
    assert own <= gone
    assert all((pretended.folder / output).exists() for output in plan_of(pretended, "layer.yaml"))


# Another file system.


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
    assert audit.returncode == 3 and f"? {CACHE}: file missing (and its record)" in audit.stdout
    assert f"Not here, so nothing is said of their bytes: 1, {CACHE}." in audit.stdout
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
