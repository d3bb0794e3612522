"""Files are whole or absent, whatever goes wrong while they are written."""

import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossdiff.errors import UserError
from crossdiff.provenance.storage import (
    atomic_path,
    read_json,
    remove_temporaries,
    write_csv,
    write_json,
    write_parquet,
)


def write_file(path: Path, text: str) -> None:
    path.write_text(text)


def write_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "part").write_text(text)


def text_of(path: Path) -> str:
    return (path / "part" if path.is_dir() else path).read_text()


@pytest.fixture(params=[write_file, write_folder], ids=["file", "folder"])
def write(request):
    """Writes a whole output at a path."""
    return request.param


@pytest.fixture
def final(tmp_path):
    """Where the output goes: a folder that does not exist yet, so atomic_path left everything in it."""
    return tmp_path / "results" / "output.bin"


def test_success_leaves_the_output_and_nothing_else(write, final):
    with atomic_path(final) as temporary:
        write(temporary, "whole")
        assert not final.exists()
    assert text_of(final) == "whole"
    assert list(final.parent.iterdir()) == [final]


def test_temporary_path_is_beside_the_output_and_keeps_its_ending(final):
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent and temporary.suffix == ".bin"
        temporary.touch()


@pytest.mark.parametrize(
    "failure", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.EACCES, "denied")], ids=repr
)
def test_failure_leaves_nothing_and_is_passed_on(write, final, failure):
    with pytest.raises(type(failure)) as caught, atomic_path(final) as temporary:
        write(temporary, "half")
        raise failure
    assert caught.value is failure
    assert list(final.parent.iterdir()) == []


def test_failure_keeps_the_output_of_before(write, final):
    with atomic_path(final) as temporary:
        write(temporary, "old")
    with pytest.raises(ValueError), atomic_path(final) as temporary:
        write(temporary, "half")
        raise ValueError
    assert text_of(final) == "old"
    assert list(final.parent.iterdir()) == [final]


def test_success_replaces_the_output_of_before(write, final):
    for text in ("old", "new"):
        with atomic_path(final) as temporary:
            write(temporary, text)
    assert text_of(final) == "new"


def test_folder_that_is_replaced_keeps_none_of_its_old_files(final):
    final.mkdir(parents=True)
    (final / "stale").touch()
    with atomic_path(final) as temporary:
        write_folder(temporary, "new")
    assert [path.name for path in final.iterdir()] == ["part"]


FULL_DISK = {
    "errno": OSError(errno.ENOSPC, "in the words of another system"),
    "HDF5": OSError(
        "Can't write data (file write failed: time = now, errno = 28, "
        "error message = 'No space left on device')"
    ),
}


def test_files_have_the_mode_of_other_files_also_where_a_writer_hides_them(write, final):
    """Safetensors writes files that their owner alone may read. Groups share results."""
    beside = final.parent.with_name("beside")
    beside.write_text("")
    with atomic_path(final) as path:
        write(path, "new")
        for file in (path, *path.rglob("*")):
            file.chmod(0o700 if file.is_dir() else 0o600)
    [file] = [one for one in (final, *final.rglob("*")) if one.is_file()]
    assert file.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("error", FULL_DISK.values(), ids=FULL_DISK.keys())
def test_full_disk_is_one_clear_line_and_leaves_nothing(write, final, error):
    with pytest.raises(UserError) as caught, atomic_path(final) as temporary:
        write(temporary, "half")
        raise error
    message = str(caught.value)
    assert message.startswith(f"{final}: the disk is full (") and "\n" not in message
    assert list(final.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_write_that_the_kernel_refuses_for_lack_of_space_is_a_full_disk(final):
    with pytest.raises(UserError, match="the disk is full"), atomic_path(final) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"no room for this")
    assert list(final.parent.iterdir()) == []


def test_last_of_two_writers_wins_with_a_whole_output(write, final):
    with atomic_path(final) as slow:
        write(slow, "slow")
        with atomic_path(final) as fast:
            assert fast != slow
            write(fast, "fast")
        assert text_of(final) == "fast"
    assert text_of(final) == "slow"
    assert list(final.parent.iterdir()) == [final]


def test_writer_that_fails_leaves_the_other_ones_output(write, final):
    with pytest.raises(ValueError), atomic_path(final) as slow:
        write(slow, "half")
        with atomic_path(final) as fast:
            write(fast, "fast")
        raise ValueError
    assert text_of(final) == "fast"
    assert list(final.parent.iterdir()) == [final]


def test_block_that_writes_nothing_fails(final):
    with pytest.raises(FileNotFoundError), atomic_path(final):
        pass


def test_json_comes_back_with_sorted_keys(final):
    write_json(final, {"b": [1, 2.5], "a": "ä"})
    assert read_json(final) == {"a": "ä", "b": [1, 2.5]}
    assert final.read_text().index('"a"') < final.read_text().index('"b"')


def test_json_with_nan_is_refused_and_leaves_nothing(final):
    with pytest.raises(ValueError, match="JSON"):
        write_json(final, {"value": float("nan")})
    assert list(final.parent.iterdir()) == []


def test_missing_json_is_one_clear_line(final):
    with pytest.raises(UserError, match=f"^{final}: no such file$"):
        read_json(final)


@pytest.mark.parametrize("content", [b"", b'{"cut": ', b"\xff\xfe"], ids=["empty", "truncated", "binary"])
def test_malformed_json_is_one_clear_line(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: not a JSON file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_tables_come_back(tmp_path):
    table = pd.DataFrame({"latent": [0, 1], "beta": [0.25, np.nan]})
    write_parquet(tmp_path / "table.parquet", table)
    write_csv(tmp_path / "table.csv", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)


def test_csv_has_six_significant_digits(tmp_path):
    write_csv(tmp_path / "table.csv", pd.DataFrame({"value": [1 / 3, 123456789.0]}))
    assert (tmp_path / "table.csv").read_text().split() == ["value", "0.333333", "1.23457e+08"]


def test_files_that_killed_writers_left_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (
        ".a.csv.0123abcd.csv",
        "a.csv",
        ".a.csv.record.json",
        ".b.csv.0123abcd.csv",
        ".a.csv.kept.csv",
    ):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "a.csv")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.csv", ".a.csv.record.json", ".b.csv.0123abcd.csv", ".a.csv.kept.csv"}
