"""Caches on another file system: where they lie, what is refused, and that the commands of errors help."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from helpers_config import changed
from helpers_lines import line_of

from crossdiff.config import Config, load
from crossdiff.provenance.scratch import CACHES, is_own, own_folder, walked
from crossdiff.workflow import plan
from crossdiff.workflow.cards import find_card
from crossdiff.workflow.scratch import caches_place, check, check_link, link_caches

CACHE = "a-base/layer1/a-chat/pages.train/0000.h5"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The folder of the key, which is not there yet; the file system is."""
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted/cross diff"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return moved_to(tmp_path / "here", monkeypatch)


def moved_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def config_of(folder: Path | str | None) -> Config:
    return load(changed("activations.folder", None if folder is None else str(folder)))


def begin(folder: Path | str | None) -> None:
    """What the start of a run does."""
    check(config_of(folder))
    link_caches(config_of(folder))


def write_cache(root: Path) -> None:
    (root / CACHES / CACHE).parent.mkdir(parents=True)
    (root / CACHES / CACHE).write_text(f"of {root.name}")


def follow(line: str, before: str) -> None:
    """Run the command that a line gives after these words."""
    subprocess.run(line.partition(before)[2].split("; ")[0], shell=True, check=True)


def test_first_run_makes_the_folder_and_the_link(root, scratch):
    check(config_of(scratch))
    assert not scratch.exists() and not (root / "results").exists()  # a dry-run makes nothing
    begin(scratch)
    own = own_folder(str(scratch), root)
    assert own.parent == scratch and own.name.startswith("here-")
    assert (root / CACHES).readlink() == own
    assert is_own(root) and walked(root) == ["results", CACHES]
    write_cache(root)
    begin(scratch)
    assert (own / CACHE).read_text() == "of here"


def test_home_and_relative_paths_are_found(root, scratch, monkeypatch):
    monkeypatch.setenv("HOME", str(scratch.parent))
    assert own_folder("~/x", root).parent == scratch.parent / "x"
    assert own_folder("../x", root).parent == root.parent / "x"


def test_empty_folder_becomes_the_link(root, scratch):
    (root / CACHES).mkdir(parents=True)
    begin(scratch)
    assert is_own(root)


def test_caches_that_are_there_already_are_moved_by_the_command_of_the_line(root, scratch):
    write_cache(root)
    line = line_of(lambda: begin(scratch))
    assert line.startswith(
        f"activations.folder: found {scratch}, but {CACHES} holds files already; move them: "
    )
    follow(line, "move them: ")
    begin(scratch)
    assert (own_folder(str(scratch), root) / CACHE).read_text() == "of here"


def test_two_folders_with_caches_are_told(root, scratch):
    begin(scratch)
    write_cache(root)
    (root / CACHES).unlink()
    write_cache(root)
    own = own_folder(str(scratch), root)
    assert f"but {CACHES} and {own} both hold files; delete one" in line_of(lambda: check(config_of(scratch)))


def test_new_link_finds_the_caches_of_before_without_a_run(root, scratch):
    begin(scratch)
    write_cache(root)
    shutil.rmtree(root / "results")
    link_caches(config_of(scratch), begin=False)
    assert (root / CACHES / CACHE).exists()


def test_plan_makes_no_folder(root, scratch):
    link_caches(config_of(scratch), begin=False)
    assert not scratch.exists() and not (root / "results").exists()


def test_config_without_the_key_goes_on_through_the_link(root, scratch):
    begin(scratch)
    begin(None)
    assert is_own(root)


def test_other_folder_is_told_and_the_command_of_the_line_moves_the_caches(root, scratch):
    begin(scratch)
    write_cache(root)
    other = scratch.with_name("other")
    line = line_of(lambda: begin(other))
    own = own_folder(str(other), root)
    assert (
        f"but activations.folder gives this checkout {own}; if this checkout is a copy: rm {CACHES}" in line
    )
    follow(line, "the key has changed: ")
    begin(other)
    assert (own / CACHE).read_text() == "of here"


def test_two_checkouts_with_one_config_are_kept_apart(root, scratch, monkeypatch):
    begin(scratch)
    write_cache(root)
    second = moved_to(root.with_name("second"), monkeypatch)
    begin(scratch)
    write_cache(second)
    assert (root / CACHES / CACHE).read_text() == "of here"


@pytest.mark.parametrize("has_key", [True, False])
def test_copy_of_a_checkout_does_not_use_its_caches(root, scratch, monkeypatch, has_key):
    begin(scratch)
    write_cache(root)
    copy = root.with_name("copy")
    shutil.copytree(root, copy, symlinks=True)
    moved_to(copy, monkeypatch)
    assert not is_own(copy)
    line = line_of(lambda: begin(scratch if has_key else None))
    assert ("which was made for another checkout" in line) != has_key
    follow(line, "is a copy: ")
    begin(scratch)
    assert list((copy / CACHES).iterdir()) == [] and (root / CACHES / CACHE).exists()


def test_checkout_that_was_moved_takes_its_caches_along(root, scratch, monkeypatch):
    begin(scratch)
    write_cache(root)
    root.rename(root.with_name("moved"))
    moved = moved_to(root.with_name("moved"), monkeypatch)
    follow(line_of(lambda: begin(scratch)), "the key has changed: ")
    begin(scratch)
    assert is_own(moved) and (moved / CACHES / CACHE).read_text() == "of here"


def test_link_that_a_user_made_is_used_without_the_key(root, scratch):
    scratch.mkdir()
    (root / "results").mkdir()
    (root / CACHES).symlink_to(scratch)
    begin(None)
    assert not is_own(root)
    assert "found a link to" in line_of(lambda: begin(scratch))


def test_purged_folder_is_told_by_every_job_and_made_by_the_command_of_the_line(root, scratch):
    begin(scratch)
    shutil.rmtree(scratch)
    for asks in (check_link, lambda: check(config_of(scratch)), lambda: check(config_of(None))):
        line = line_of(asks)
        assert (
            f"{CACHES}: found a link to {shlex.quote(str(own_folder(str(scratch), root)))}, which is not"
            in line
        )
    follow(line, "if it was purged: ")
    begin(scratch)
    assert (root / CACHES).is_dir()


def test_missing_file_system_is_told_and_nothing_is_made(root, tmp_path):
    line = line_of(lambda: begin(tmp_path / "gone/me/crossdiff"))
    assert f"but {tmp_path}/gone/me is not there; mount its file system, or: mkdir -p" in line
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("folder", ["results", "results/activations", "results/x"])
def test_folder_below_results_is_refused(root, folder):
    assert line_of(lambda: begin(folder)) == (
        f"activations.folder: found {folder}, allowed: a folder outside of results/"
    )


def test_files_in_the_place_of_folders_are_told(root, scratch):
    scratch.write_text("")
    assert f"but {scratch} is no folder" in line_of(lambda: begin(scratch))
    scratch.unlink()
    (root / "results").mkdir()
    (root / CACHES).write_text("")
    assert line_of(lambda: begin(scratch)).startswith(
        f"{CACHES}: found a file, allowed: a folder, or nothing"
    )


def test_read_only_file_system_is_told(root, scratch, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != scratch.parent)
    assert f"but {scratch.parent} can't be written to" in line_of(lambda: begin(scratch))


def test_system_that_refuses_is_one_line(root, scratch, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert line_of(lambda: link_caches(config_of(scratch))).endswith(
        "can't be made (No space left on device)"
    )


# Forecast.


@pytest.fixture
def other_disk() -> Path:
    """A folder on another file system."""
    place = Path("/dev/shm")
    if not place.is_dir() or place.stat().st_dev == ROOT.stat().st_dev:
        pytest.skip("there is no second file system here")
    return place


def test_plan_counts_the_caches_on_their_own_disk(root, other_disk, monkeypatch):
    values = yaml.safe_load((ROOT / TINY).read_text())
    values["activations"]["folder"] = str(other_disk / "crossdiff")
    assert caches_place(load(values), root) == other_disk
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 if path == other_disk else 1e12})
    )
    (root / "mine.yaml").write_text(yaml.safe_dump(values))
    told = plan.report(values, [Path("mine.yaml")], root, find_card("h100", ROOT), here=True).wrong
    full = [line for line in told if "disk" in line]
    assert full == [f"warning: disk: the activation caches in {other_disk} need 0.0 GB more, 0.0 GB are free"]
