"""Hashes are those of sha256sum, and a file is read again exactly when it may have changed."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crossdiff.errors import UserError
from crossdiff.provenance import hashing
from crossdiff.provenance.hashing import IGNORED, Content, Hashes, content, stamp
from crossdiff.provenance.json_cache import JsonCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model/part").mkdir(parents=True)
    for name in ("weights", "config.json", "part/weights"):
        (tmp_path / "model" / name).write_text(name)
    return tmp_path / "model"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    found = []
    original = hashing.file_sha256
    monkeypatch.setattr(hashing, "file_sha256", lambda path: found.append(path.name) or original(path))
    return found


def edit_unseen(path: Path, text: str) -> None:
    """Write another text of the same length, and keep the modification time."""
    status = path.stat()
    path.write_text(text)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_file_hash_is_that_of_sha256sum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    assert (
        content(path).digest
        == subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    )
    assert content(path).size == 3_000_000


def test_folder_hash_is_that_of_its_listing(folder):
    files = ["config.json", "part/weights", "weights"]
    listing = subprocess.run(["sha256sum", *files], cwd=folder, capture_output=True).stdout
    assert content(folder).digest == hashlib.sha256(listing).hexdigest()
    assert list(content(folder).files) == files
    assert content(folder).size == sum(len(name) for name in files)


def test_folder_hash_sees_content_names_and_new_files_but_not_snakemakes_own(folder):
    before = content(folder).digest
    (folder / IGNORED).touch()
    assert content(folder).digest == before
    (folder / "part/weights").rename(folder / "part/other")
    renamed = content(folder).digest
    (folder / "part/other").rename(folder / "part/weights")
    assert renamed != before == content(folder).digest
    (folder / "empty").touch()
    assert content(folder).digest != before


def test_stamp_sees_an_edit_that_keeps_size_and_modification_time(folder):
    before = [stamp(folder), stamp(folder / "weights")]
    edit_unseen(folder / "weights", "WEIGHTS")
    assert stamp(folder) != before[0]
    assert stamp(folder / "weights") != before[1]


def test_missing_file(tmp_path):
    assert stamp(tmp_path / "none") is None
    with pytest.raises(UserError, match="none: no such file or folder"):
        content(tmp_path / "none")
    assert Hashes(tmp_path, {}).now("none") is None


def test_known_file_is_not_read(folder, reads):
    known = content(folder / "weights")
    reads.clear()
    assert Hashes(folder, {}).now("weights", known) == known.digest
    assert reads == []


def test_deep_reads_every_file_once(folder, reads):
    known = content(folder / "weights")
    reads.clear()
    hashes = Hashes(folder, {}, deep=True)
    assert [hashes.now("weights", known) for _ in range(3)] == [known.digest] * 3
    assert reads == ["weights"]


def test_changed_file_is_read(folder):
    known = content(folder / "weights")
    edit_unseen(folder / "weights", "WEIGHTS")
    assert Hashes(folder, {}).now("weights", known) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_copied_file_is_read_once_and_then_remembered(folder, tmp_path, reads):
    known = content(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    reads.clear()
    memory = JsonCache(tmp_path / "memory/hashes.json")
    assert Hashes(copy.parent, memory).now("copy", known) == known.digest
    assert len(reads) == 3
    memory.save()
    reads.clear()
    assert Hashes(copy.parent, JsonCache(tmp_path / "memory/hashes.json")).now("copy", known) == known.digest
    assert reads == []


def test_memory_of_another_file_is_not_used(folder):
    wrong = Content("0" * 64, 7, "another stamp")
    remembered = {"weights": ("another stamp", "1" * 64)}
    assert Hashes(folder, remembered).now("weights", wrong) == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_damaged_memory_is_an_empty_one(tmp_path, text):
    path = tmp_path / "memory.json"
    path.write_text(text)
    memory = JsonCache(path)
    assert memory == {}
    memory["key"] = [1, "a"]
    memory.save()
    assert JsonCache(path) == {"key": [1, "a"]}


def test_memory_is_written_only_if_something_is_new(tmp_path):
    path = tmp_path / "memory.json"
    JsonCache(path).save()
    assert not path.exists()
