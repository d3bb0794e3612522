"""With ``activations.keep: false`` caches go when nothing reads them, and come back for what needs them."""

import base64
import shutil
from pathlib import Path

import pytest
from conftest import TINY, Checkout, once, planned

from crossdiff.provenance.records import read_record, write_record

pytestmark = pytest.mark.slow
SHARDS, TRAIN = 5, 3  # of the tiny config; of these for training
MODELS = SEEDS = 2
READERS = ("train_crosscoder", "scale_latents", "measure_reconstruction")  # rules that read caches
KEEPLESS = {"activations.keep": False}
LARGE = ("--max-checksum-file-size", "1")  # Snakemake then compares times alone, as it does for large caches


def caches(checkout: Checkout) -> list[Path]:
    return sorted(checkout.folder.glob("results/activations/*/layer*/*/*/*.h5"))


def keepless(checkout: Checkout) -> str:
    return checkout.changed(TINY, KEEPLESS, "keepless")


def one_more(checkout: Checkout) -> str:
    """Write the config with one more crosscoder; give its path."""
    more = {"loss": "l1", "latents": 64, "batch": 256, "tokens": 25600, "l1_coefficient": 0.05}
    return checkout.changed(TINY, KEEPLESS | {"crosscoders.small": more}, "more")


def jobs(checkout: Checkout, config: str, *arguments: str) -> dict[str, int]:
    result = checkout.snakemake(*arguments, "--dry-run", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return planned(result.stdout)


@pytest.fixture(scope="module")
def emptied(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The finished run, run again with ``keep: false``."""

    def make(checkout: Checkout) -> None:
        shutil.copytree(finished.folder, checkout.folder, symlinks=True, dirs_exist_ok=True)
        config = keepless(checkout)
        assert not jobs(checkout, config)
        assert len(caches(checkout)) == MODELS * SHARDS  # a dry-run removes nothing
        result = checkout.snakemake("--configfile", config)
        assert result.returncode == 0, result.stdout
        assert "Removed 10 caches that no job reads any more (activations.keep: false)" in result.stdout

    return once(tmp_path_factory, "emptied", make)


@pytest.fixture
def copy(emptied: Checkout, tmp_path: Path) -> Checkout:
    """A copy of that run which a test may change and damage."""
    return emptied.copy(tmp_path / "copy")


def test_keep_switched_off_removes_the_caches_of_a_finished_run(emptied: Checkout) -> None:
    assert not caches(emptied)
    records = [*emptied.folder.glob("results/activations/*/layer1/*/*/*.h5.record.json")]
    assert len(records) == MODELS * SHARDS


def test_nothing_runs_again(emptied: Checkout) -> None:
    assert not jobs(emptied, keepless(emptied))
    assert not jobs(emptied, TINY)  # keep switched on again


def test_audit_says_what_was_removed_and_verifies_the_rest(emptied: Checkout) -> None:
    audit = emptied.crossdiff("audit", "--all", "--configfile", keepless(emptied))
    assert audit.returncode == 0, audit.stdout
    line, *_, last = audit.stdout.splitlines()
    assert line.startswith(f"~ {MODELS * SHARDS} files, results/activations/")
    assert line.endswith("0000.h5 first: removed as configured (its record stays)")
    assert f" files verified, {MODELS * SHARDS} removed as configured" in last


def test_crosscoder_added_later_harvests_again_and_trains_only_itself(emptied: Checkout) -> None:
    found = jobs(emptied, one_more(emptied))
    assert found["harvest_activations"] == MODELS * SHARDS
    assert {rule: found.get(rule, 0) for rule in READERS} == dict.fromkeys(READERS, SEEDS)
    assert found["evaluate_crosscoder"] == found["read_latents"] == found["find_twins"] == SEEDS
    assert found["compare_crosscoders"] == found["write_report"] == 1
    assert not found.keys() & {"summarise_activations", "tokenise", "check_model", "prove_model"}


def test_crosscoder_with_other_settings_trains_only_itself(emptied: Checkout) -> None:
    changes = KEEPLESS | {"crosscoders.l1.learning_rate": 2.0e-3}
    found = jobs(emptied, emptied.changed(TINY, changes, "rate"))
    assert found["harvest_activations"] == MODELS * SHARDS
    assert {rule: found.get(rule, 0) for rule in READERS} == dict.fromkeys(READERS, SEEDS)


def test_lost_result_harvests_what_it_needs(copy: Checkout) -> None:
    (copy.folder / "results/tiny/layer1/l1/seed0/scaling.parquet").write_bytes(b"damaged")
    found = jobs(copy, keepless(copy))
    assert (found["harvest_activations"], found["scale_latents"]) == (MODELS * TRAIN, 1)
    assert not found.keys() & {"train_crosscoder", "measure_reconstruction", "summarise_activations"}
    audit = copy.crossdiff("audit", "--all", "--configfile", keepless(copy))
    assert audit.returncode == 1
    assert "! results/tiny/layer1/l1/seed0/scaling.parquet: file changed" in audit.stdout


@pytest.mark.parametrize("remembers", [True, False])
def test_changed_model_makes_everything_again(copy: Checkout, remembers: bool) -> None:
    """Also if Snakemake has lost what it knew: then the records of the removed caches tell."""
    if not remembers:
        for path in (copy.folder / ".snakemake/metadata").glob("*"):
            path.unlink()
        assert not jobs(copy, keepless(copy))
    found = jobs(copy, copy.changed(TINY, KEEPLESS | {"pair.base.random.seed": 1}, "seed"))
    assert found["harvest_activations"] == MODELS * SHARDS
    assert {rule: found[rule] for rule in READERS} == dict.fromkeys(READERS, 2 * SEEDS)


@pytest.mark.parametrize("remembers", [True, False])
def test_changed_harvest_makes_everything_again(copy: Checkout, remembers: bool) -> None:
    path = copy.folder / "src/crossdiff/activations/harvest.py"
    path.write_text(path.read_text() + "\nANOTHER = 1\n")
    if not remembers:
        for known in (copy.folder / ".snakemake/metadata").glob("*"):
            known.unlink()
    found = jobs(copy, one_more(copy))
    assert found["harvest_activations"] == MODELS * SHARDS
    assert found["train_crosscoder"] == 3 * SEEDS and found["summarise_activations"] == 1


def test_changed_text_makes_everything_again(copy: Checkout) -> None:
    copy.edit("tests/data/documents.txt", "the", "a")
    found = jobs(copy, keepless(copy))
    assert (found["tokenise"], found["harvest_activations"]) == (2, MODELS * SHARDS)
    assert {rule: found[rule] for rule in READERS} == dict.fromkeys(READERS, 2 * SEEDS)


def test_forced_harvest_makes_everything_again(emptied: Checkout) -> None:
    found = jobs(emptied, keepless(emptied), "--forcerun", "harvest_activations")
    assert found["train_crosscoder"] == 2 * SEEDS


def test_cache_that_was_lost_makes_everything_again(copy: Checkout) -> None:
    """Nothing says that it was removed as configured."""
    for path in copy.folder.glob("results/activations/*/layer1/*/*/*.h5.record.json"):
        path.unlink()
    assert jobs(copy, one_more(copy))["train_crosscoder"] == 3 * SEEDS


def test_removed_layers_are_harvested_one_by_one(copy: Checkout) -> None:
    """Layer 1 was removed, and layer 0 was never made."""
    layers = {"pair.layer": None, "pair.layers": [0, 1], "steering.latents": None, "catalogue": None}
    config = copy.changed(TINY, KEEPLESS | layers, "layers")
    assert jobs(copy, config, "activations")["harvest_activations"] == 2 * MODELS * SHARDS


@pytest.fixture(scope="module")
def again(emptied: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """That run with all caches made again, by ``snakemake activations``."""

    def make(checkout: Checkout) -> None:
        shutil.copytree(emptied.folder, checkout.folder, symlinks=True, dirs_exist_ok=True)
        for path in checkout.folder.glob("results/activations/*/layer1/*/*/*.h5.record.json"):
            rounded_otherwise(
                checkout, path.relative_to(checkout.folder).as_posix().removesuffix(".record.json")
            )
        result = checkout.snakemake("activations", "--configfile", keepless(checkout))
        assert result.returncode == 0, result.stdout
        assert planned(result.stdout) == {"activations": 1, "harvest_activations": MODELS * SHARDS}

    return once(tmp_path_factory, "again", make)


def rounded_otherwise(checkout: Checkout, cache: str) -> None:
    """Change the records of a removed cache and of all that read it, as if the cache had had other bits."""
    record = read_record(checkout.folder / cache)
    digest = record.output(cache).digest[::-1]
    changed = [entry._replace(digest=digest) for entry in record.outputs]
    write_record(checkout.folder / cache, record._replace(outputs=changed))
    for path in checkout.folder.glob("results/tiny/**/*.record.json"):
        output = str(path).removesuffix(".record.json")
        reader = read_record(output)
        if any(entry.path == cache for entry in reader.inputs):
            inputs = [e._replace(digest=digest) if e.path == cache else e for e in reader.inputs]
            write_record(output, reader._replace(inputs=inputs))


def test_caches_made_again_with_other_bits_keep_what_was_made(again: Checkout) -> None:
    """A run that named its target keeps them. They are newer than all results, and no result runs again."""
    assert len(caches(again)) == MODELS * SHARDS
    for config in (TINY, keepless(again)):
        assert not jobs(again, config)
        assert not jobs(again, config, *LARGE)
    found = jobs(again, one_more(again), *LARGE)
    assert {rule: found.get(rule, 0) for rule in READERS} == dict.fromkeys(READERS, SEEDS)
    assert not found.keys() & {"harvest_activations", "summarise_activations"}


def test_audit_says_which_results_were_made_from_other_bits(again: Checkout) -> None:
    audit = again.crossdiff("audit", "--all", "--configfile", keepless(again))
    assert audit.returncode == 0, audit.stdout
    told = [line for line in audit.stdout.splitlines() if "input made again with other bits" in line]
    assert told and all(line.startswith("~ ") for line in told)


def test_cache_changed_by_hand_is_seen_though_it_was_made_again(again: Checkout, tmp_path: Path) -> None:
    ours = again.copy(tmp_path / "ours")
    path = caches(ours)[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert jobs(ours, keepless(ours))["harvest_activations"] == 1
    assert ours.crossdiff("audit", "--all", "--configfile", keepless(ours)).returncode == 1


def test_job_that_ended_as_snakemake_was_killed_runs_not_again(again: Checkout, tmp_path: Path) -> None:
    """Snakemake's mark at a cache whose job it had started. The record says that the cache is whole."""
    ours = again.copy(tmp_path / "ours")
    name = caches(ours)[0].relative_to(ours.folder).as_posix()
    mark = ours.folder / ".snakemake/incomplete" / base64.urlsafe_b64encode(name.encode()).decode()
    mark.write_text('{"external_jobid": null}')
    assert not jobs(ours, keepless(ours))


def test_gc_keeps_the_records_of_caches_that_a_config_may_need(copy: Checkout) -> None:
    result = copy.crossdiff("gc", keepless(copy))
    assert "Every result is needed" in result.stdout, result.stdout
    others = copy.crossdiff("gc", copy.changed(TINY, KEEPLESS | {"pair.layer": 0, "steering": None}, "other"))
    assert "results/activations/tiny-base/layer1" in others.stdout
