"""Copies of results: figures, and folders that hold results with their records, such as one for the hub."""

import shutil
from pathlib import Path

import pytest
from helpers_chain import FIGURE, MODEL, TABLE, TOKENS, command, jobs, make, root  # noqa: F401

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import content
from crossdiff.provenance.locate import locate, locate_exported
from crossdiff.provenance.records import RecordedFile, read_record, record_path, write_record

OTHER = "results/p/other.svg"


def copy(result: Path, folder: Path) -> Path:
    """Copy a result with its record."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(record_path(result), folder)
    return Path(shutil.copy(result, folder))


@pytest.fixture
def hub(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    copy(root / TABLE, folder)
    copy(root / FIGURE, folder / "figures")
    (folder / "README.md").write_text(f"crossdiff-record:{read_record(root / TABLE).id}")
    return folder


def test_exported_folder_says_which_results_it_holds(root, hub, capsys):
    code, out, _ = command(capsys, str(hub))
    assert code == 0
    assert out.splitlines()[0] == (
        f"{hub} is a copy from results/p; 2 of 2 files are byte for byte those that its records describe; "
        "without a record: README.md"
    )
    assert "All 5 files verified" in out and "Settings that mattered" in out


def test_exported_file_that_was_edited_is_told(root, hub, capsys):
    (hub / "table.csv").write_text("edited")
    code, out, _ = command(capsys, str(hub))
    assert code == 1 and "1 of 2 files are byte for byte" in out
    assert f"! {TABLE}: file changed ({hub}/table.csv is not byte for byte what the record of {TABLE}" in out


def test_exported_file_resolves_where_its_result_was_not_copied(root, hub, capsys):
    (root / TABLE).unlink()
    code, out, _ = command(capsys, str(hub))
    assert code == 3 and "2 of 2 files are byte for byte" in out
    assert f"? {TABLE}: file missing" in out


def test_exported_files_of_no_result_here(root, hub, capsys):
    foreign = root.parent / "foreign/results/q/table.csv"
    make(foreign.parents[2], "evaluate_crosscoder", {}, "results/q/table.csv", {"classes.top": 9}, "foreign")
    copied = copy(foreign, hub / "more")
    copy(foreign.parents[2] / "results/q/table.csv", hub / "gone")
    (hub / "gone/table.csv").unlink()
    code, out, _ = command(capsys, str(hub))
    assert code == 3 and "; 2 of no result here, or missing; " in out
    assert f"? {copied}: input not here (results/q/table.csv)" in out
    assert f"? {hub}/gone/table.csv: file missing (only its record is in the folder)" in out
    copied.write_text("edited")
    code, out, _ = command(capsys, str(hub))
    assert code == 1 and f"! {copied}: file changed (its bytes are not those of its record)" in out


def test_exported_file_of_an_earlier_training_differs(root, hub, capsys):
    """Its own record describes it, and the result of this name here has another record."""
    make(root, "evaluate_crosscoder", {}, TABLE, {"classes.top": 9}, "another")
    code, out, _ = command(capsys, str(hub))
    assert code == 1 and f"! {hub}/table.csv: file changed (of another job than {TABLE} here)" in out


def test_exported_file_without_its_record_is_compared(root, hub, capsys):
    figure = hub / "figures" / Path(FIGURE).name
    record_path(figure).unlink()
    code, out, _ = command(capsys, str(hub))
    assert code == 0 and "2 of 2 files are byte for byte" in out
    figure.write_text(figure.read_text() + "<!-- edited -->")
    code, out, _ = command(capsys, str(hub))
    assert code == 1 and f"! {FIGURE}: file changed" in out


@pytest.mark.parametrize("folder", [".", "results"])
def test_results_folder_is_no_export(root, capsys, folder):
    code, _, err = command(capsys, folder)
    assert code == 2
    assert err.endswith(f"{folder}: a results folder; run crossdiff audit --all in {root.resolve()}\n")


def test_exported_folder_in_the_wrong_place_is_one_line(root, hub, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = command(capsys, str(hub))
    assert code == 2 and err.count("\n") == 1
    assert f"its records are of no result of {tmp_path}/empty; " in err
    assert "its bytes are those of its record" in err
    assert "Run this in the folder that has the results it came from" in err


def test_export_without_records_is_one_line(root, hub, capsys):
    for record in hub.rglob("*.record.json"):
        record.unlink()
    assert locate_exported(hub, root) is None
    code, _, err = command(capsys, str(hub))
    assert code == 2 and err.count("\n") == 1
    assert "nothing is known of how it was made" in err
    assert locate(hub / "table.csv", root) == (root, TABLE, [])


def test_model_card_names_the_result_whose_record_it_holds(root, hub):
    with pytest.raises(UserError, match=f"no result, but it holds the id of the record of {TABLE}; audit"):
        locate(hub / "README.md", root)


def test_results_are_no_exports(root):
    assert locate_exported(root / "results/p", root) is None
    assert locate_exported(root / MODEL, root) is None
    assert locate_exported(root / FIGURE, root) is None


def test_exact_copy_comes_before_another_file_of_the_same_job(root, tmp_path):
    """Two figures of one job have one id. Even an edited copy of the second is of the second."""
    record = read_record(root / FIGURE)
    text = f"another figure crossdiff-record:{record.id}"
    make(root, "figure_planted", {}, OTHER, {}, "another figure")
    (root / OTHER).write_text(text)
    both = [*record.outputs, RecordedFile.of("", OTHER, content(root / OTHER))]
    for output in (FIGURE, OTHER):
        write_record(root / output, record._replace(outputs=both))
    mailed = tmp_path / "mailed.svg"
    for result in (FIGURE, OTHER):
        shutil.copy(root / result, mailed)
        assert locate(mailed, root) == (root, result, [])
    edited = tmp_path / "other.svg"
    edited.write_text(f"edited {text}")
    assert locate(edited, root)[1] == OTHER


def test_same_bytes_of_two_jobs_are_told_apart_by_the_record_next_to_them(root, tmp_path):
    for number in (0, 1):
        output = f"results/p/seed{number}/config.json"
        make(root, "train_crosscoder", {}, output, {"seed": number})
        (root / output).write_text("{}")
        record = read_record(root / output)
        write_record(
            root / output,
            record._replace(outputs=[RecordedFile.of("", output, content(root / output))]),
        )
    copied = copy(root / "results/p/seed1/config.json", tmp_path / "hub")
    assert locate(copied, root) == (root, "results/p/seed1/config.json", [])
