"""Audit and export a finished run, as a user does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Checkout
from helpers_crate import faults, no_network  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdiff.provenance.audit import Audit
from crossdiff.provenance.hashing import IGNORED, file_sha256
from crossdiff.provenance.records import embedded_id, read_record, record_path

FIGURE = "results/tiny/layer1/figures/training.svg"
REPORT = "results/tiny/layer1/report/index.html"


def test_whole_run_is_verified(finished):
    for arguments in (["--all"], ["--all", "--deep"], [FIGURE], [REPORT]):
        result = finished.crossdiff("audit", *arguments)
        assert result.returncode == 0, result.stdout
        assert "files verified" in result.stdout


def test_chain_of_a_figure_ends_at_weights_and_source_text(finished):
    found = json.loads(finished.crossdiff("audit", FIGURE, "--json").stdout)
    paths = {node["path"] for node in found["nodes"]}
    assert {
        FIGURE,
        "results/models/tiny-base",
        "results/models/tiny-chat",
        "data/requests.yaml",
        "tests/data/documents.txt",
    } <= paths
    assert found["settings"]["crosscoders.batchtopk.k"] == [8]
    assert "classes.top" not in found["settings"]  # it does not matter to this figure


def test_fast_audit_loads_no_heavy_package_and_reads_no_result_again(finished):
    code = (
        "import sys; from crossdiff.cli import main; from crossdiff.provenance import hashing\n"
        "hashing.content = lambda path, **_: sys.exit(f'read {path}')\n"
        "code = main(); print('loaded', *sys.modules); sys.exit(code)"
    )
    result = finished.run("-c", code, "audit", FIGURE, fresh=True)
    assert result.returncode == 0, result.stdout + result.stderr
    loaded = result.stdout.rpartition("loaded ")[2].split()
    assert {"torch", "transformers", "pandas", "h5py", "matplotlib"}.isdisjoint(loaded)


def test_every_result_has_a_record_and_those_that_can_carry_its_id(finished):
    results = [
        path
        for path in (finished.folder / "results").rglob("*")
        if path.suffix in (".svg", ".pdf", ".png", ".h5", ".html", ".parquet")
    ]
    assert len(results) > 40
    for path in [*results, *(finished.folder / "results").rglob("weights.safetensors")]:
        assert embedded_id(path) == read_record(path).id, path


def test_records_say_where_and_with_what(finished):
    run = read_record(finished.folder / "results/models/tiny-chat").run
    assert run["host"] and run["packages"]["torch"] and run["config"] == [TINY]
    assert run["seeds"] == {"models.tiny-chat.finetune.seed": 0}
    assert run["started"] <= run["finished"]


def test_config_that_differs_now_is_named_by_its_key(ours):
    ours.edit(TINY, "k: 8", "k: 9")
    result = ours.crossdiff("audit", FIGURE)
    assert result.returncode == 1
    assert (
        "layer1/batchtopk/seed0/training.csv: config differs now (crosscoders.batchtopk.k was 8, is 9)"
        in result.stdout
    )
    assert "1 of " in result.stdout.splitlines()[-1]


def test_code_that_differs_now_is_named_by_its_file(ours):
    path = ours.folder / "src/crossdiff/crosscoders/trainer.py"
    path.write_text(path.read_text() + "\nNEW = 1\n")
    result = ours.crossdiff("audit", FIGURE)
    assert result.returncode == 1
    assert "code differs now (src/crossdiff/crosscoders/trainer.py)" in result.stdout


def test_config_that_cannot_be_planned_is_one_line(ours):
    ours.edit(TINY, "k: 8", "kk: 8")
    result = ours.crossdiff("audit", FIGURE)
    assert result.returncode == 3
    assert "not compared (configs/tiny.yaml: Snakemake can't plan this run" in result.stdout
    assert "crosscoders.batchtopk.k" in result.stdout


def test_mailed_figure_resolves(finished, tmp_path):
    shutil.copy(finished.folder / FIGURE, tmp_path / "mailed.svg")
    result = finished.crossdiff("audit", str(tmp_path / "mailed.svg"))
    assert result.returncode == 0 and result.stdout.startswith(FIGURE)


def test_copied_results_without_models_contradict_nothing(finished, tmp_path):
    without = shutil.ignore_patterns("models")
    shutil.copytree(finished.folder / "results", tmp_path / "results", ignore=without)
    program = "import sys; from crossdiff.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "audit", "--all", "--json"]
    environment = os.environ | {"PYTHONPATH": str(finished.folder / "src")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 3, result.stdout + result.stderr
    counts = json.loads(result.stdout)["counts"]
    assert set(counts) == {"file missing", "input not here", "not compared"} and counts["file missing"] == 2


def test_two_seeds_differ_by_their_seed(finished):
    paths = [f"results/tiny/layer1/l1/seed{seed}/betas.csv" for seed in (0, 1)]
    result = finished.crossdiff("audit", "--diff", *paths)
    assert result.returncode == 1
    assert (
        "seed1/" in result.stdout
        and "(train_crosscoder): seed is 0 in one and 1 in the other" in result.stdout
    )


def test_captions_hold_the_recorded_values_not_those_of_the_config(ours):
    """The figures were made with a threshold of 0.2. A page written after an edit of the config keeps it."""
    (ours.folder / TINY).write_text(
        (ours.folder / TINY).read_text() + "\nlatent_scaling: {nu_error_below: 0.3}\n"
    )
    result = ours.snakemake(
        "--configfile", TINY, "--forcerun", "write_report", "--allowed-rules", "write_report", "--", REPORT
    )
    assert result.returncode == 0, result.stdout
    page = " ".join((ours.folder / REPORT).read_text().split())
    assert "hardly uses where the latent fires: less than 0.2 of what the chat model uses" in page
    assert "readme (documents, 6,000)" in page and "requests (chats, 12,000)" in page


# An audit finds any flipped byte.


@pytest.fixture(scope="module")
def flippable(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A copy, and every file in the chain of the report: results, members of folders, records, sources."""
    copy = finished.copy(tmp_path_factory.mktemp("flips") / "copy")
    chain = Audit(copy.folder).chain(REPORT)
    assert not [node for node in chain.values() if node.findings]
    files: list[Path] = []
    for node in chain.values():
        path = copy.folder / node.path
        files += (
            [path]
            if path.is_file()
            else [member for member in path.rglob("*") if member.is_file() and member.name != IGNORED]
        )
        files += [record_path(path)] if node.record else []
    return copy.folder, sorted(files)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_deep_audit_finds_any_flipped_byte(flippable, data):
    root, files = flippable
    path = data.draw(st.sampled_from(files))
    raw = path.read_bytes()
    place = data.draw(st.integers(0, len(raw) - 1))
    flipped = bytearray(raw)
    flipped[place] ^= data.draw(st.integers(1, 255))
    status = path.stat()
    try:
        path.write_bytes(flipped)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        nodes = Audit(root, deep=True).chain(REPORT)
        assert [node for node in nodes.values() if node.findings]
    finally:
        path.write_bytes(raw)


# RO-Crate.


@pytest.fixture(scope="module")
def crate(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("crate") / "crate"
    result = finished.crossdiff("export-crate", str(target), "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    return target


@pytest.mark.parametrize("profile", ["ro-crate-1.1", "provenance-run-crate-0.5"])
def test_crate_is_valid(crate, no_network, profile):  # noqa: F811
    assert faults(crate, profile) == []


def test_crate_has_every_file_with_its_sha256(crate, finished):
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    files = {entity["@id"]: entity for entity in graph if "File" in entity["@type"]}
    for path in (
        path for path in (finished.folder / "results").rglob("*") if path.is_file() and path.name != IGNORED
    ):
        assert files[path.relative_to(finished.folder).as_posix()]["sha256"] == file_sha256(path)
    assert {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()} == {
        *files,
        "ro-crate-metadata.json",
    }
    assert all(file_sha256(crate / name) == entity["sha256"] for name, entity in files.items())


def test_crate_links_every_job_to_its_files_and_settings(crate):
    entities = {
        entity["@id"]: entity
        for entity in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    }
    record = read_record(crate / "results/tiny/layer1/l1/seed0/weights.safetensors")
    action = entities[f"#job/{record.id}"]
    assert action["instrument"] == {"@id": "workflow_scripts/train_crosscoder.py"}
    objects = {item["@id"] for item in action["object"]}
    assert {entry.path for entry in record.inputs} | {f"#setting/{key}" for key in record.settings} == objects
    assert entities["#setting/crosscoders.l1.l1_coefficient"]["value"] == "0.05"


def test_run_that_is_not_verified_is_not_exported(ours, tmp_path):
    (ours.folder / FIGURE).write_text("tampered")
    result = ours.crossdiff("export-crate", str(tmp_path / "crate"), "--configfile", TINY)
    assert result.returncode == 2
    assert f"such as {FIGURE}: file changed" in result.stdout
    assert not (tmp_path / "crate").exists()


def test_crate_of_the_checkout_itself_is_metadata_only(ours):
    before = {path: path.stat().st_mtime_ns for path in (ours.folder / "results").rglob("*")}
    result = ours.crossdiff("export-crate", ".", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert (ours.folder / "ro-crate-metadata.json").exists()
    assert {path: path.stat().st_mtime_ns for path in (ours.folder / "results").rglob("*")} == before


def test_script_is_installed():
    assert 'crossdiff = "crossdiff.cli:main"' in (ROOT / "pyproject.toml").read_text()
