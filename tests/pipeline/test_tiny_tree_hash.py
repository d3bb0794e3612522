"""An upgrade to tree hashes: records of a finished run have plain hashes, today's code makes tree hashes."""

import json
import os
import shutil

import pytest
from conftest import TINY, Checkout, planned
from helpers_crate import faults, no_network  # noqa: F401

from crossdiff.provenance.hashing import TREE, is_plain
from crossdiff.provenance.records import Record, RecordedFile, read_record, record_path

REPORT = "results/tiny/layer1/report/index.html"


def entries(record: Record) -> list[RecordedFile]:
    return [*record.inputs, *record.outputs]


@pytest.fixture(scope="module")
def upgraded(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy with other stamps than its records, and code that makes tree hashes of files above 5 kB."""
    ours = finished.copy(tmp_path_factory.mktemp("upgraded") / "ours")
    hashing = ours.folder / "src/crossdiff/provenance/hashing.py"
    text = hashing.read_text()
    assert "PART = 64 << 20" in text and "TREE_ABOVE = 100_000_000" in text
    hashing.write_text(
        text.replace("PART = 64 << 20", "PART = 4096").replace(
            "TREE_ABOVE = 100_000_000", "TREE_ABOVE = 5000"
        )
    )
    result = ours.crossdiff("accept", "--deep")
    assert result.returncode == 0, result.stdout
    return ours


@pytest.fixture(scope="module")
def renewed(upgraded: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of that in which one job ran again."""
    ours = upgraded.copy(tmp_path_factory.mktemp("renewed") / "ours")
    for path in (ours.folder / REPORT, record_path(ours.folder / REPORT)):
        path.unlink()
    result = ours.snakemake("--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert planned(result.stdout) == {"write_report": 1, "all": 1}
    return ours


@pytest.mark.parametrize("remembered", [True, False])
def test_nothing_runs_again_and_all_is_as_it_was(upgraded, tmp_path, remembered):
    ours = upgraded.copy(tmp_path / "ours")
    if not remembered:
        shutil.rmtree(ours.folder / ".snakemake")
    assert ours.pending() == {}
    for arguments in (["--all"], ["--all", "--deep"]):
        result = ours.crossdiff("audit", *arguments)
        assert result.returncode == 0, result.stdout
    records = [
        read_record(ours.folder / str(path).removesuffix(".record.json"))
        for path in ours.folder.rglob("*.record.json")
    ]
    assert len(records) > 40 and all(
        is_plain(entry.digest) for record in records for entry in entries(record)
    )


def test_new_result_has_a_tree_hash_and_what_it_was_made_from_keeps_its_own(renewed):
    record = read_record(renewed.folder / REPORT)
    assert record.output(REPORT).digest.startswith(TREE)
    made = [entry for entry in record.inputs if entry.path.startswith("results/")]
    assert made and all(is_plain(entry.digest) for entry in made)


def test_both_kinds_are_verified_and_nothing_runs_again(renewed, tmp_path):
    for arguments in (["--all"], ["--all", "--deep"]):
        result = renewed.crossdiff("audit", *arguments)
        assert result.returncode == 0, result.stdout
    assert renewed.pending() == {}
    ours = renewed.copy(tmp_path / "ours")
    shutil.rmtree(ours.folder / ".snakemake")
    assert ours.pending() == {}


def test_edit_in_the_middle_of_a_large_file_is_seen(renewed, tmp_path):
    ours = renewed.copy(tmp_path / "ours")
    path = ours.folder / REPORT
    status, raw = path.stat(), bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout) == {"write_report": 1, "all": 1}
    assert f"{REPORT}: file changed" in ours.crossdiff("audit", REPORT).stdout


@pytest.mark.parametrize("profile", ["ro-crate-1.1", "provenance-run-crate-0.5"])
def test_crate_names_the_kind(renewed, tmp_path, no_network, profile):  # noqa: F811
    result = renewed.crossdiff("export-crate", str(tmp_path / "crate"), "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert faults(tmp_path / "crate", profile) == []
    entities = {
        entity["@id"]: entity
        for entity in json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())["@graph"]
    }
    digest = read_record(renewed.folder / REPORT).output(REPORT).digest
    assert "sha256" not in entities[REPORT]
    identifier = entities[entities[REPORT]["identifier"]["@id"]]
    assert (identifier["@type"], identifier["value"]) == ("PropertyValue", digest)
    assert "split -b 64M --filter=sha256sum FILE" in identifier["description"]
    files = [entity for entity in entities.values() if "File" in entity["@type"]]
    assert all(("sha256" in entity) != ("identifier" in entity) for entity in files)
    # The records have plain hashes of the other files.
    assert sum("identifier" in entity for entity in files) < 10 < len(files)
