"""Several layers come from one pass. Later changes of the layers harvest only what is missing."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import TINY, Checkout, once, planned
from test_slurm_profile import submitted_lines, value

from crossdiff.provenance.planned_jobs import plan
from crossdiff.provenance.records import SUFFIX, Record, read_record

SHARDS = 5  # of the tiny config
CACHES = "results/activations/*/layer{}/*/*/*.h5"


def at_layers(checkout: Checkout, *layers: int) -> str:
    """Write the tiny config with these layers; give its path."""
    # Latents and their names differ with the layer.
    changes = {"pair.layer": None, "pair.layers": list(layers), "steering.latents": None, "catalogue": None}
    return checkout.changed(TINY, changes, "layers" + "_".join(map(str, layers)))


def caches(checkout: Checkout, layer: int) -> list[Path]:
    return sorted(checkout.folder.glob(CACHES.format(layer)))


def remove(*paths: Path) -> None:
    """Remove results with their records."""
    for path in paths:
        path.unlink()
        path.with_name(path.name + SUFFIX).unlink()


def jobs(checkout: Checkout, config: str, *arguments: str) -> dict[str, int]:
    """The jobs that would make all activations; {} if there is nothing to be done."""
    result = checkout.snakemake("activations", "--dry-run", "--configfile", config, *arguments)
    assert result.returncode == 0, result.stdout
    return {rule: count for rule, count in planned(result.stdout).items() if rule != "activations"}


def run(checkout: Checkout, config: str, *arguments: str) -> str:
    result = checkout.snakemake(*arguments, "--configfile", config)
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def both(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The finished run of layer 1. Its caches were removed, and one pass made them and those of layer 0."""

    def make(checkout: Checkout) -> None:
        shutil.copytree(finished.folder, checkout.folder, symlinks=True, dirs_exist_ok=True)
        remove(*caches(checkout, 1))
        config = at_layers(checkout, 0, 1)
        run(checkout, config, "--dry-run")  # keeps a plan that was made while caches were missing
        run(checkout, config, "activations")

    return once(tmp_path_factory, "layers", make)


@pytest.fixture
def copy(both: Checkout, tmp_path: Path) -> Checkout:
    """A copy of that run which a test may change and damage."""
    return both.copy(tmp_path / "copy")


def test_one_job_per_model_and_shard_makes_the_caches_of_all_layers(checkout: Checkout) -> None:
    config = checkout.changed("configs/tiny-pairs.yaml", {}, "pairs")
    found = jobs(checkout, config)
    assert (found["harvest_layers_0_1"], found["tokenise"]) == (3 * SHARDS, SHARDS)
    assert "harvest_activations" not in found
    assert jobs(checkout, at_layers(checkout, 0, 2, 1))["harvest_layers_0_1_2"] == 2 * SHARDS
    assert jobs(checkout, TINY)["harvest_activations"] == 2 * SHARDS


def test_nothing_is_left_to_do(both: Checkout) -> None:
    assert jobs(both, at_layers(both, 0, 1)) == jobs(both, TINY) == jobs(both, at_layers(both, 0)) == {}


def test_caches_and_records_are_those_of_a_run_of_one_layer(both: Checkout, finished: Checkout) -> None:
    assert len(caches(both, 0)) == len(caches(both, 1)) == 2 * SHARDS
    for path in caches(finished, 1):
        name = path.relative_to(finished.folder)
        assert (both.folder / name).read_bytes() == path.read_bytes()
        assert depends_on(read_record(both.folder / name)) == depends_on(read_record(path))
    for path in caches(both, 0):
        record = read_record(path)
        assert (record.rule, record.wildcards["layer"]) == ("harvest_activations", "0")
        assert record.settings == {"pair.layer": 0}
        assert not [entry.path for entry in record.inputs if "layer1" in entry.path]
        assert [entry.path for entry in record.outputs] == [path.relative_to(both.folder).as_posix()]


def depends_on(record: Record) -> tuple:
    """All but when and where the job ran, and the stamps of files."""
    digests = [(entry.name, entry.path, entry.digest) for entry in (*record.inputs, *record.outputs)]
    return record.id, record.rule, record.wildcards, record.params, record.code, digests


def test_audit_verifies_every_cache_by_a_plan_from_before_they_were_made(both: Checkout) -> None:
    config = at_layers(both, 0, 1)
    told = plan(both.folder, [Path(config)])
    names = [path.relative_to(both.folder).as_posix() for layer in (0, 1) for path in caches(both, layer)]
    assert {told[name].rule for name in names} == {"harvest_activations"}
    for name in names[:: SHARDS * 2 + 1]:
        audit = both.crossdiff("audit", name, "--configfile", config)
        assert audit.returncode == 0, audit.stdout
    audit = both.crossdiff("audit", "--all", "--configfile", config)
    assert not [line for line in audit.stdout.splitlines() if "activations/" in line], audit.stdout


def test_further_layer_is_harvested_alone(both: Checkout) -> None:
    found = jobs(both, at_layers(both, 0, 1, 2))
    assert found == {"check_model": 2, "prove_model": 2, "harvest_activations": 2 * SHARDS}


def test_one_cache_of_two_is_made_alone_and_both_together(copy: Checkout) -> None:
    config = at_layers(copy, 0, 1)
    remove(caches(copy, 0)[0])
    assert jobs(copy, config) == {"harvest_activations": 1}
    remove(caches(copy, 1)[0])
    assert jobs(copy, config) == {"harvest_layers_0_1": 1}
    remove(caches(copy, 1)[-1])
    assert jobs(copy, config) == {"harvest_layers_0_1": 1, "harvest_activations": 1}
    run(copy, config, "activations")
    assert jobs(copy, config) == {}


def test_all_is_forced_where_caches_are_there_and_where_some_are_missing(copy: Checkout) -> None:
    config = at_layers(copy, 0, 1)
    assert jobs(copy, config, "--forceall")["harvest_activations"] == 4 * SHARDS
    remove(caches(copy, 0)[0], caches(copy, 1)[0])
    found = jobs(copy, config, "--forceall")
    assert (found["harvest_layers_0_1"], found["harvest_activations"]) == (1, 4 * SHARDS - 2)


def test_job_that_was_killed_before_its_records_were_written_runs_again(copy: Checkout) -> None:
    for layer in (0, 1):
        path = caches(copy, layer)[0]
        path.with_name(path.name + SUFFIX).unlink()
    assert jobs(copy, at_layers(copy, 0, 1)) == {"harvest_layers_0_1": 1}


def test_job_step_makes_its_caches_though_another_job_has_made_one_meanwhile(copy: Checkout) -> None:
    """A process that SLURM starts reads the Snakefile again, and looks for the rule of its job."""
    config, lost = at_layers(copy, 0, 1), caches(copy, 1)[0]
    before = lost.read_bytes()
    remove(lost)
    model, _, tokenizer, texts, _ = lost.relative_to(copy.folder / "results/activations").parts
    dataset, split = texts.split(".")
    wildcards = f"model={model},tokenizer={tokenizer},dataset={dataset},split={split},shard=0000"
    target = ["--target-jobs", f"harvest_layers_0_1:{wildcards}", "--allowed-rules", "harvest_layers_0_1"]
    told = run(copy, config, *target, "--force", "--mode", "remote", "--nolock", "--cores", "1")
    assert "at layers 0 and 1" in told
    assert lost.read_bytes() == before
    assert jobs(copy, config) == {}


def test_settings_of_the_rule_hold_for_layers_together(
    copy: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a profile says of harvest_activations."""
    remove(caches(copy, 0)[0], caches(copy, 1)[0])
    config, profile = at_layers(copy, 0, 1), copy.folder / "slurm/config.yaml"
    text = profile.read_text().replace(
        "harvest_activations: *gpu", "harvest_activations: {<<: *gpu, mem_mb: 12345}"
    )
    profile.write_text(f"{text}\nset-threads:\n  harvest_activations: 2\n")
    lines = submitted_lines(copy, monkeypatch, "activations", "--retries", "0", config=config)
    [asked] = [line for line in lines if "--test-only" in line]
    assert value(asked, "--comment") == "rule_harvest_layers_0_1"
    assert (value(asked, "--gres"), value(asked, "-p"), value(asked, "--mem")) == ("gpu:1", "gpu", "12345")
    assert value(asked, "--cpus-per-task") == str(min(2, os.cpu_count() or 1))  # no more than there are
