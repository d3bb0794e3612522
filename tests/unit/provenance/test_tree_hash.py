"""Tree hashes of large files, and plain ones in older records: each file is compared as it was recorded."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from helpers_chain import FIGURE, MODEL, TABLE, TOKENS, command, job_of, jobs, results, root, verdicts  # noqa: F401
from snakemake.cli import parse_size_in_bytes

from crossdiff.errors import UserError
from crossdiff.provenance import hashing, trust
from crossdiff.provenance.accept import accept
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.hashing import PART, TREE, TREE_ABOVE, Hashes, content, file_sha256, is_plain
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.records import RecordedFile, read_record, record_path, write_record


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large enough for a tree hash."""
    for name, value in {"PART": 5, "TREE_ABOVE": 5, "_BUFFER": 3}.items():
        monkeypatch.setattr(hashing, name, value)


def flip(path: Path) -> None:
    """Change the byte in the middle; size and modification time stay."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def sha256(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


# What it is.


@pytest.mark.parametrize("threads", [1, 3, None])
@pytest.mark.parametrize("length", [0, 1, 2500, 2501, 2999, 3000, 3001, 4000, 12_345])
def test_digest_of_sizes_around_the_borders(tmp_path, monkeypatch, length, threads):
    for name, value in {"PART": 1000, "TREE_ABOVE": 2500, "_BUFFER": 300}.items():
        monkeypatch.setattr(hashing, name, value)
    raw = os.urandom(length)
    (tmp_path / "file").write_bytes(raw)
    parts = [raw[start : start + 1000] for start in range(0, length, 1000)]
    tree = TREE + sha256("".join(f"{sha256(part)}  -\n" for part in parts))
    assert content(tmp_path / "file", threads=threads).digest == (tree if length > 2500 else sha256(raw))
    assert content(tmp_path / "file", plain=True, threads=threads).digest == sha256(raw)


def test_as_many_threads_as_the_process_may_use(tmp_path, small, monkeypatch):
    threads = []
    monkeypatch.setattr(
        hashing, "ThreadPoolExecutor", lambda number: threads.append(number) or ThreadPoolExecutor(number)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 5})
    (tmp_path / "file").write_text("0123456789")
    assert content(tmp_path / "file").digest == content(tmp_path / "file", threads=1).digest
    assert threads == [3, 1]


def test_digest_is_that_of_the_shell(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:  # mostly holes
        file.write(b"first")
        file.seek(2 * PART - 2)
        file.write(b"over the border")
    printed = subprocess.run(
        f"split -b 64M --filter=sha256sum {path}", shell=True, capture_output=True, check=True
    ).stdout
    assert printed.count(b"\n") == 3
    assert content(path).digest == f"tree64m:{sha256(printed)}"
    os.truncate(path, TREE_ABOVE + 1)
    assert content(path).digest.startswith("tree64m:")
    os.truncate(path, TREE_ABOVE)
    assert content(path).digest == file_sha256(path)


def test_files_that_snakemake_compares_itself_have_plain_hashes():
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert parse_size_in_bytes(profile["max-checksum-file-size"]) == TREE_ABOVE


def test_digest_of_a_folder_names_the_kind_of_its_largest_file(tmp_path, small):
    (tmp_path / "large").write_text("0123456789")
    (tmp_path / "small").write_text("01")
    large = TREE + sha256(f"{sha256('01234')}  -\n{sha256('56789')}  -\n")
    found = content(tmp_path)
    assert found.files == {"large": large, "small": sha256("01")}
    assert found.digest == TREE + sha256(f"{large}  large\n{sha256('01')}  small\n")
    assert content(tmp_path, plain=True).digest == sha256(
        f"{sha256('0123456789')}  large\n{sha256('01')}  small\n"
    )
    (tmp_path / "large").unlink()
    assert content(tmp_path).digest == sha256(f"{sha256('01')}  small\n")


def test_edit_in_the_middle_is_seen(tmp_path, small):
    (tmp_path / "file").write_bytes(os.urandom(1000))
    known = content(tmp_path / "file")
    assert not is_plain(known.digest)
    flip(tmp_path / "file")
    assert Hashes(tmp_path, {}).now("file", known) == content(tmp_path / "file").digest != known.digest


def test_parts_in_another_order_are_another_file(tmp_path, small):
    for name, text in {"a": "0123456789", "b": "5678901234"}.items():
        (tmp_path / name).write_text(text)
    assert content(tmp_path / "a").digest != content(tmp_path / "b").digest


# Both kinds of one file.


@pytest.mark.parametrize("deep", [False, True])
def test_file_is_hashed_as_its_record_has_it(tmp_path, small, monkeypatch, deep):
    (tmp_path / "file").write_text("0123456789")
    entries = [content(tmp_path / "file", plain)._replace(stamp="before a copy") for plain in (True, False)]
    remembered: dict[str, tuple[str, str]] = {}
    hashes = Hashes(tmp_path, remembered, deep)
    assert [hashes.now("file", entry) for entry in entries] == [entry.digest for entry in entries]
    assert hashes.now("file") == entries[1].digest
    assert sorted(digest for _, digest in remembered.values()) == sorted(entry.digest for entry in entries)
    monkeypatch.setattr(hashing, "content", None)  # not read again
    again = hashes if deep else Hashes(tmp_path, remembered)
    assert [again.now("file", entry) for entry in entries] == [entry.digest for entry in entries]


def test_memory_of_older_versions_holds(tmp_path, small, monkeypatch):
    (tmp_path / "file").write_text("0123456789")
    known = content(tmp_path / "file", plain=True)
    monkeypatch.setattr(hashing, "content", None)
    assert (
        Hashes(tmp_path, {"file": [known.stamp, known.digest]}).now("file", known._replace(stamp="old"))
        == known.digest
    )


def test_snakemake_is_told_plain_hashes_of_files_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    digests = {"a": "1" * 64, "b": TREE + "2" * 64, "folder": "3" * 64}
    entries = [RecordedFile("", path, digest, 1, "") for path, digest in digests.items()]
    assert trust._checksums(entries) == {"a": "sha256:" + "1" * 64}


# An upgrade: results whose records have plain hashes, and code of today that has tree hashes.


def plain_entries(root: Path) -> list[bool]:
    records = [read_record(root / output) for output in (TOKENS, MODEL, TABLE, FIGURE)]
    return [is_plain(entry.digest) for record in records for entry in [*record.inputs, *record.outputs]]


def upgrade(root: Path) -> None:
    """Give all records tree hashes, and nothing else."""
    for output in (TOKENS, MODEL, TABLE, FIGURE):
        record = read_record(root / output)
        inputs = [entry._replace(digest=content(root / entry.path).digest) for entry in record.inputs]
        outputs = [
            RecordedFile.of(entry.name, entry.path, content(root / entry.path)) for entry in record.outputs
        ]
        write_record(root / output, record._replace(inputs=inputs, outputs=outputs))
    assert not any(plain_entries(root))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("copied", [False, True])
def test_older_records_stay_verified(root, small, deep, copied):
    assert all(plain_entries(root))
    if copied:
        shutil.copytree(root, "copy")
        root = root / "copy"
    assert verdicts(root, deep=deep) == {}


@pytest.mark.parametrize("path", [TOKENS, f"{MODEL}/weights"])
@pytest.mark.parametrize("upgraded", [False, True])
def test_flipped_byte_is_found_by_both_kinds(root, small, upgraded, path):
    if upgraded:
        upgrade(root)
    flip(root / path)
    found = verdicts(root)
    output = path.removesuffix("/weights")
    assert found == {TABLE: ["input changed since"], output: ["file changed"]}
    if output == MODEL:
        assert Audit(root).chain(FIGURE)[MODEL].findings[0].detail == "in it: weights"


def test_both_kinds_in_one_chain_are_verified(root, small):
    older = read_record(root / TABLE)
    upgrade(root)
    write_record(root / TABLE, older)
    assert sorted(set(plain_entries(root))) == [False, True]
    for deep in (False, True):
        assert verdicts(root, deep=deep) == {}


@pytest.mark.parametrize("upgraded", [False, True])
def test_accept_knows_both_kinds(root, small, upgraded):
    if upgraded:
        upgrade(root)
    kinds = plain_entries(root)
    record = read_record(root / TABLE)
    write_record(
        root / TABLE, record._replace(code={"gone.py": "x"}, params=record.params | {"code": "older"})
    )
    assert accept(root, [], deep=True).accepted == {"evaluate_crosscoder": 1}
    assert plain_entries(root) == kinds
    flip(root / TOKENS)
    with pytest.raises(UserError, match="file changed"):
        accept(root, [])


def test_histories_of_both_kinds(root, tmp_path, small):
    upgraded = shutil.copytree(root, tmp_path / "upgraded")
    upgrade(upgraded)
    pair = [(place, FIGURE, read_record(place / FIGURE)) for place in (root, upgraded)]
    assert first_difference(*pair) is None and first_difference(*reversed(pair)) is None
    results(upgraded, source="a Text")
    pair[1] = upgraded, FIGURE, read_record(upgraded / FIGURE)
    said = f"text.txt: read by tokenise, with digest {sha256('a text')[:20]} in one and tree64m:"
    assert first_difference(*pair).startswith(said)


@pytest.mark.parametrize("upgraded", [False, True])
def test_mailed_result_is_found_by_its_bytes(root, tmp_path, small, capsys, upgraded):
    if upgraded:
        upgrade(root)
    (tmp_path / "mailed").write_bytes((root / TABLE).read_bytes())
    code, out, _ = command(capsys, str(tmp_path / "mailed"))
    assert code == 0 and out.startswith(TABLE)
    shutil.copytree(root / MODEL, tmp_path / "model")
    assert command(capsys, str(tmp_path / "model"))[1].startswith(MODEL)
    shutil.copy(root / TABLE, tmp_path / "table.csv")
    shutil.copy(record_path(root / TABLE), tmp_path / "table.csv.record.json")
    (tmp_path / "table.csv").write_text(
        (tmp_path / "table.csv").read_text().replace("crossdiff-record", "crossdiff record")
    )
    (root / "elsewhere").mkdir()
    os.chdir(root / "elsewhere")
    assert (
        f"moved away from {TABLE}; its bytes are not those of its record"
        in command(capsys, str(tmp_path / "table.csv"))[2]
    )
    shutil.copy(root / TABLE, tmp_path / "table.csv")
    assert (
        f"moved away from {TABLE}; its bytes are those of its record"
        in command(capsys, str(tmp_path / "table.csv"))[2]
    )
