"""Clocks that are wrong and disks that are full or read-only: one line, nothing half-written, and all goes
on.
"""

import errno
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, Checkout, planned
from helpers_chain import FIGURE, jobs, root  # noqa: F401
from helpers_config import changed
from helpers_lines import line_of
from safetensors import SafetensorError
from safetensors.torch import save_file

from crossdiff.activations.cache import cache_writer
from crossdiff.config import load
from crossdiff.provenance.json_cache import JsonCache
from crossdiff.provenance.storage import atomic_path, write_csv, write_json
from crossdiff.workflow.folders import check_folders
from crossdiff.workflow.run import check_times

# Clocks.


def test_source_from_the_future_is_told_before_a_job_runs(tmp_path: Path):
    (tmp_path / "my pages.txt").write_text("a")
    values = changed("datasets.pages.files", [str(tmp_path / "my pages.txt")])
    config = load(values)
    check_times(config, tmp_path)
    os.utime(tmp_path / "my pages.txt", (time.time() + 3600,) * 2)
    line = line_of(lambda: check_times(config, tmp_path))
    assert "changed in the future (" in line
    subprocess.run(shlex.split(line.partition("then: ")[2]), check=True)  # what it says helps
    check_times(config, tmp_path)


def test_results_from_the_future_are_told_with_their_number(tmp_path: Path):
    config = load(changed("datasets.pages.files", [str(tmp_path / "none.txt")]))
    folder = tmp_path / "results/small/layer1"
    folder.mkdir(parents=True)
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() + 3600,) * 2)
    line = line_of(lambda: check_times(config, tmp_path))
    assert " and 1 more: changed in the future" in line and line.endswith(
        "find . -newermt now -exec touch {} +"
    )


def test_clocks_may_differ_by_seconds(tmp_path: Path):
    (tmp_path / "pages.txt").write_text("a")
    os.utime(tmp_path / "pages.txt", (time.time() + 20,) * 2)
    check_times(load(changed("datasets.pages.files", [str(tmp_path / "pages.txt")])), tmp_path)


def test_result_that_a_job_takes_away_meanwhile_is_passed_over(tmp_path: Path, monkeypatch):
    config = load(changed("datasets.pages.files", [str(tmp_path / "none.txt")]))
    late = tmp_path / "late.csv"
    late.write_text("")
    os.utime(late, (time.time() + 3600,) * 2)
    monkeypatch.setattr("os.walk", lambda _: [(str(tmp_path), ["gone"], ["gone.csv", late.name])])
    assert line_of(lambda: check_times(config, tmp_path)).startswith(
        f"{late} and 3 more: changed in the future"
    )


# Disks.

RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
HDF5 = RuntimeError(
    "Can't decrement id ref count (unable to close file, errno = 28, error message = 'No space')"
)


@pytest.mark.parametrize(
    "error", [RUST, HDF5, OSError(errno.ENOSPC, "No space")], ids=["safetensors", "hdf5", "system"]
)
def test_full_disk_is_one_line_whoever_wrote(tmp_path: Path, error: Exception):
    def write() -> None:
        with atomic_path(tmp_path / "weights.safetensors") as temporary:
            temporary.write_text("half")
            raise error

    assert re.fullmatch(
        rf"{tmp_path}/weights\.safetensors: the disk is full \([\d,]+ MB left\); free some space and run "
        "again; what is finished stays",
        line_of(write),
    )
    assert list(tmp_path.iterdir()) == []


def test_full_disk_that_another_error_hides_is_told(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "a.json"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise RuntimeError("can't close the file") from error

    assert "the disk is full" in line_of(write)


def test_used_up_quota_is_told_as_such(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "a.json"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    assert "a.json: the disk quota is used up; free some of your space" in line_of(write)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert line_of(lambda: write_json(tmp_path / "results/a.json", {})) == (
        f"{tmp_path}/results/a.json: the folder {tmp_path} can't be written to; make it writable and run "
        "again; what is finished stays"
    )


def test_unreadable_input_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_cache_that_only_saves_time_is_left_unwritten(tmp_path, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    cache = JsonCache(tmp_path / "cache.json")
    cache["a"] = 1
    monkeypatch.setattr(Path, "write_text", refuse)
    cache.save()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _tensors(path: Path, count: int) -> None:
    with atomic_path(path) as temporary:
        save_file({"x": torch.zeros(count)}, temporary)


def _hdf5(path: Path, count: int) -> None:
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).random(count // 2))


def _cache(path: Path, count: int) -> None:
    rows = np.arange(count // 64, dtype=np.int32)
    with cache_writer(path, len(rows), 64, 1, rows) as writer:
        writer.write(rows, torch.randn(len(rows), 64).bfloat16())


def _table(path: Path, count: int) -> None:
    write_csv(path, pd.DataFrame({"x": np.random.default_rng(0).random(count)}))


@pytest.mark.slow
@pytest.mark.parametrize("write", [_tensors, _hdf5, _cache, _table])
def test_full_disk_leaves_nothing_and_all_goes_on_after_the_mend(small_disk: Path, write):
    write(small_disk / "before", 1000)
    before = (small_disk / "before").read_bytes()
    assert "the disk is full" in line_of(lambda: write(small_disk / "new", 4_000_000))
    assert "the disk is full" in line_of(lambda: write(small_disk / "before", 4_000_000))
    assert [path.name for path in small_disk.iterdir()] == ["before"]
    assert (small_disk / "before").read_bytes() == before
    write(small_disk / "new", 1000)
    assert (small_disk / "new").stat().st_size > 1000


@pytest.mark.slow
def test_read_only_disk_is_one_line(small_disk: Path):
    (small_disk / "results").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    line = line_of(lambda: write_json(small_disk / "results/a/b.json", {}))
    assert f"the folder {small_disk}/results can't be written to" in line
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    write_json(small_disk / "results/a/b.json", {})


@pytest.mark.slow
def test_run_on_a_full_disk_is_one_line_and_goes_on_after_the_mend(small_disk: Path, checkout: Checkout):
    model = "results/models/tiny-base"
    (checkout.folder / "results").symlink_to(small_disk)
    (small_disk / "other").write_bytes(bytes(2_050_000))
    result = checkout.snakemake(model, "--configfile", TINY)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert f"error: {model}: the disk is full (0 MB left); free some space and run again" in result.stdout
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["other"]
    (small_disk / "other").unlink()
    assert checkout.snakemake(model, "--configfile", TINY).returncode == 0
    audited = checkout.crossdiff("audit", model)
    assert audited.returncode == 0 and "verified" in audited.stdout, audited.stdout


@pytest.mark.slow
def test_run_without_space_for_its_logs_has_its_results(small_disk: Path, checkout: Checkout):
    (checkout.folder / "logs").symlink_to(small_disk)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "other").write_bytes(bytes(3_000_000))
    result = checkout.snakemake("results/models/tiny-base", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert checkout.crossdiff("audit", "results/models/tiny-base").returncode == 0


def test_run_makes_its_caches_on_another_file_system_and_a_dry_run_makes_nothing(checkout: Checkout):
    config = checkout.changed(TINY, {"activations.folder": "../scratch"})
    link, there = checkout.folder / "results/activations", checkout.folder.parent / "scratch"
    assert checkout.snakemake("-n", "--configfile", config).returncode == 0
    assert not there.exists() and not link.is_symlink()
    checked = "results/activations/tiny-base/layer1/tiny-chat/checked.json"
    result = checkout.snakemake(checked, "--configfile", config)
    assert result.returncode == 0, result.stdout
    [own] = there.iterdir()
    assert link.readlink() == own and (own / "tiny-base/layer1/tiny-chat/checked.json").is_file()
    assert checkout.crossdiff("audit", checked).returncode == 0
    (checkout.folder / "results/activations/tiny-base/layer1/tiny-chat/checked.json").unlink()
    link.unlink()
    link.symlink_to(there / "gone-0123abcd")
    result = checkout.snakemake(checked, "--configfile", config)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert "results/activations: found a link to " in result.stdout


# Names of folders.


def test_file_in_place_of_a_folder_of_results_is_told(tmp_path: Path):
    (tmp_path / "results").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "logs").symlink_to("scratch")
    check_folders(tmp_path)
    (tmp_path / "scratch").rmdir()
    assert line_of(lambda: check_folders(tmp_path)) == (
        "logs: found a link to scratch, which is not there; make that folder"
    )
    (tmp_path / "logs").unlink()
    (tmp_path / "logs").write_text("")
    assert line_of(lambda: check_folders(tmp_path)) == (
        "logs: found a file, allowed: a folder, or nothing; move the file elsewhere"
    )


def test_run_whose_results_are_a_file_is_one_line_and_goes_on_after_the_mend(checkout: Checkout):
    (checkout.folder / "results").write_text("")
    result = checkout.snakemake("-n", "--configfile", TINY)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert "results: found a file, allowed: a folder, or nothing" in result.stdout
    (checkout.folder / "results").unlink()
    (checkout.folder / "elsewhere").mkdir()
    (checkout.folder / "results").symlink_to("elsewhere")
    result = checkout.snakemake("-n", "--configfile", TINY)
    assert result.returncode == 0 and planned(result.stdout)["write_report"] == 1
