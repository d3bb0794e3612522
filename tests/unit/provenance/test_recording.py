"""What a job writes next to its outputs, and when it refuses to."""

import os
import subprocess
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards

from crossdiff.provenance import hashing, recording, storage
from crossdiff.provenance.code import code_digest, code_files
from crossdiff.provenance.hashing import content, is_plain
from crossdiff.provenance.records import read_record, record_path
from crossdiff.provenance.storage import atomic_path, record_mark


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSDIFF_CONFIG", "configs/tiny.yaml")
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(name)
    return tmp_path


def named(kind: type, **files: str | list[str]):
    """A rule's files with names, as Snakemake hands them over."""
    found = kind(
        [path for value in files.values() for path in ([value] if isinstance(value, str) else value)]
    )
    start = 0
    for name, value in files.items():
        end = None if isinstance(value, str) else start + len(value)
        found._set_name(name, start, end=end)
        start = start + 1 if end is None else end
    return found


def rule(**changes) -> SimpleNamespace:
    """Make the object that Snakemake puts into a script, for a job that is easily changed."""
    parts = {
        "rule": "tokenise",
        "input": named(InputFiles, first="a.txt", others=["a.txt", "b.txt"]),
        "output": named(OutputFiles, table="out/table.csv", model="out/model"),
        "params": Params(fromdict={"settings": {"tokens.context": 8, "x.seed": 3}, "code": "of the plan"}),
        "wildcards": Wildcards(fromdict={"seed": "5"}),
        "log": ["log.txt"],
        "threads": 2,
    }
    return SimpleNamespace(**parts | changes)


def write_outputs() -> None:
    with atomic_path("out/table.csv") as path:
        path.write_text("1,2\n")
    with atomic_path("out/model") as path:
        path.mkdir()
        (path / "weights").write_text("w")


def run(snakemake: SimpleNamespace, script=write_outputs) -> None:
    with recording.recording(snakemake):
        script()


def message(snakemake: SimpleNamespace, script=write_outputs) -> str:
    with pytest.raises(recording.UserError) as caught:
        run(snakemake, script)
    assert not record_path("out/table.csv").exists()
    return str(caught.value)


def test_every_output_has_the_same_record():
    run(rule())
    record = read_record("out/table.csv")
    assert record == read_record("out/model")
    assert [(entry.name, entry.path) for entry in record.inputs] == [
        ("first", "a.txt"),
        ("others", "a.txt"),
        ("others", "b.txt"),
    ]
    assert [(entry.name, entry.path, entry.digest) for entry in record.outputs] == [
        (name, path, content(path).digest)
        for name, path in (("table", "out/table.csv"), ("model", "out/model"))
    ]
    assert record.output("out/model").files == content("out/model").files
    assert record.settings == {"tokens.context": 8, "x.seed": 3}
    assert record.run["config"] == ["configs/tiny.yaml"]
    assert record.run["seeds"] == {"seed": "5", "x.seed": 3}
    assert record.run["packages"]["torch"]
    assert record.run["threads"] == 2


def test_files_without_names_are_recorded_in_order():
    run(rule(input=InputFiles(["b.txt", "a.txt"])))
    assert [(entry.name, entry.path) for entry in read_record("out/table.csv").inputs] == [
        ("", "b.txt"),
        ("", "a.txt"),
    ]


def test_code_is_that_of_the_running_job_not_of_the_plan():
    run(rule())
    record = read_record("out/table.csv")
    assert record.params["code"] == code_digest("tokenise") != "of the plan"
    assert len(record.code) == len(code_files("tokenise"))


def test_stamps_are_those_of_the_finished_files():
    run(rule())
    for entry in read_record("out/table.csv").outputs:
        assert entry.stamp == content(entry.path).stamp


def test_output_is_hashed_once_before_it_gets_its_name(monkeypatch):
    hashed = []
    monkeypatch.setattr(storage, "content", lambda path: hashed.append(path.name) or content(path))
    monkeypatch.setattr(
        recording, "content", lambda path, plain=False: hashed.append(str(path)) or content(path)
    )
    run(rule())
    assert sorted(hashed[:2]) == ["a.txt", "b.txt"]  # a.txt stands under two names
    assert [name[:7] for name in hashed[2:]] == [".table.", ".model."]


def test_output_that_was_written_otherwise_is_hashed_too():
    def script() -> None:
        write_outputs()
        Path("out/table.csv").write_text("3,4\n")

    run(rule(), script)
    assert read_record("out/table.csv").outputs[0].digest == content("out/table.csv").digest


def test_input_with_an_intact_record_is_not_read_again(monkeypatch):
    run(rule())
    hashed = []
    monkeypatch.setattr(
        recording, "content", lambda path, plain=False: hashed.append(str(path)) or content(path)
    )
    after = rule(input=InputFiles(["out/model", "out/table.csv"]), output=OutputFiles(["out/next"]))

    def script() -> None:
        with atomic_path("out/next") as path:
            path.write_text("n")

    run(after, script)
    assert hashed == []
    assert [entry.digest for entry in read_record("out/next").inputs] == [
        content(path).digest for path in ("out/model", "out/table.csv")
    ]


def test_input_that_no_longer_matches_its_record_is_read_as_it_is():
    run(rule())
    Path("out/table.csv").write_text("tampered")
    run(
        rule(input=InputFiles(["out/table.csv"]), output=OutputFiles(["out/next"])),
        lambda: Path("out/next").write_text("n"),
    )
    assert read_record("out/next").inputs[0].digest == content("out/table.csv").digest


def test_large_files_have_tree_hashes_and_inputs_that_had_plain_ones_keep_them(monkeypatch):
    """So a job has the same id where its inputs are copies, which have other stamps."""
    run(rule())
    for name in ("PART", "TREE_ABOVE"):
        monkeypatch.setattr(hashing, name, 1)
    os.utime("out/table.csv")
    run(
        rule(input=InputFiles(["out/table.csv", "b.txt"]), output=OutputFiles(["out/next"])),
        lambda: Path("out/next").write_text("next"),
    )
    record = read_record("out/next")
    assert [is_plain(entry.digest) for entry in [*record.inputs, *record.outputs]] == [True, False, False]
    assert record.inputs[0].digest == read_record("out/table.csv").outputs[0].digest
    assert [entry.digest for entry in [*record.inputs[1:], *record.outputs]] == [
        content(path).digest for path in ("b.txt", "out/next")
    ]


@pytest.mark.parametrize("keep_time", [False, True], ids=["new time", "old time"])
def test_input_changed_during_the_job_fails_it(keep_time):
    def script() -> None:
        status = Path("b.txt").stat()
        Path("b.txt").write_text("B.txt")
        if keep_time:
            os.utime("b.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
        write_outputs()

    assert (
        message(rule(), script)
        == "b.txt: changed while the job ran, so what was read can't be known; run again"
    )


def test_missing_output_fails_the_job():
    assert message(rule(), lambda: Path("out").mkdir()) == "out/table.csv: no such file or folder"


def test_old_record_does_not_outlive_a_failed_job():
    run(rule())

    def script() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(rule(), script)
    assert not record_path("out/table.csv").exists()
    assert not record_path("out/model").exists()
    assert storage.current_job is None


@pytest.mark.parametrize(
    "value",
    [
        date(2026, 1, 1),
        Path("a"),
        np.int64(1),
        np.arange(3),
        np.float64(0.5),
        {1, 2},
        (1, 2),
        {"a": [date(2026, 1, 1)]},
        {1: 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_params_that_snakemake_does_not_compare_are_refused(value):
    found = message(rule(params=Params(fromdict={"when": value, "code": ""})))
    assert (
        found.startswith("params when: found ")
        and "allowed: text, numbers, true/false, lists and dicts of these" in found
    )


def test_same_job_has_the_same_id_and_other_inputs_another():
    run(rule())
    first = read_record("out/table.csv").id
    run(rule())
    assert read_record("out/table.csv").id == first
    Path("a.txt").write_text("other")
    run(rule())
    assert read_record("out/table.csv").id != first


def test_writers_know_the_id():
    marks = []
    run(rule(), lambda: (write_outputs(), marks.append(record_mark())))
    assert marks == [{"crossdiff-record": f"crossdiff-record:{read_record('out/table.csv').id}"}]
    assert record_mark() == {}


def test_git_state_is_the_commit_and_the_files_that_differ_from_it(folder, monkeypatch):
    monkeypatch.setattr(recording, "ROOT", folder)
    assert recording._git() is None
    for arguments in (["init", "-q"], ["add", "a.txt", "b.txt"], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert recording._git() == {"commit": commit, "changed_files": []}
    Path("b.txt").write_text("changed")
    Path("untracked").touch()
    assert recording._git() == {"commit": commit, "changed_files": ["b.txt"]}


def test_modules_that_the_script_comes_to_by_name_count(monkeypatch):
    run(rule())
    assert "src/crossdiff/crosscoders/losses/l1.py" not in read_record("out/table.csv").code
    modules = {"modules": ["crossdiff.crosscoders.losses.l1"], "code": ""}
    run(rule(params=Params(fromdict=modules)))
    record = read_record("out/table.csv")
    assert "src/crossdiff/crosscoders/losses/l1.py" in record.code
    assert record.params["code"] == code_digest("tokenise", "crossdiff.crosscoders.losses.l1")
