"""Differences of two histories, and what a page may say of the results that it shows."""

import pytest
from helpers_chain import FIGURE, MODEL, TABLE, command, jobs, make, results, root  # noqa: F401  # jobs, root: fixtures

from crossdiff.errors import UserError
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.recorded_settings import recorded_settings
from crossdiff.provenance.records import read_record, write_record

# Two histories.


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, None),
        ({"top": 60}, f"{TABLE} (evaluate_crosscoder): classes.top is 50 in one and 60 in the other"),
        (
            {"seed": 1, "top": 60},
            f"{MODEL} (prepare_model): pair.base.random.seed is 0 in one and 1 in the other",
        ),
        ({"source": "b text", "seed": 1}, "text.txt: read by tokenise, with digest"),
    ],
    ids=["none", "table", "model", "text"],
)
def test_first_difference_of_two_histories(tmp_path, changes, difference):
    roots = [results(tmp_path / "a"), results(tmp_path / "b", **changes)]
    found = first_difference(*((root, FIGURE, read_record(root / FIGURE)) for root in roots))
    assert found == difference if difference is None else found.startswith(difference)


def test_same_history_but_other_bytes_names_versions(tmp_path):
    roots = [results(tmp_path / "a"), results(tmp_path / "b", run={"packages": {"torch": "2.12.0"}})]
    record = read_record(roots[1] / FIGURE)
    write_record(roots[1] / FIGURE, record._replace(outputs=[record.outputs[0]._replace(digest="0" * 64)]))
    found = first_difference(*((root, FIGURE, read_record(root / FIGURE)) for root in roots))
    assert (
        found
        == f"{FIGURE} (figure_planted): same inputs, settings and code, other bytes; torch 2.13.0 and 2.12.0"
    )


def test_diff_command(root, tmp_path, capsys):
    other = results(tmp_path / "other", top=60)
    code, out, _ = command(capsys, "--diff", FIGURE, str(other / FIGURE))
    assert (code, out) == (
        1,
        f"{TABLE} (evaluate_crosscoder): classes.top is 50 in one and 60 in the other\n",
    )
    assert command(capsys, "--diff", FIGURE, FIGURE)[:2] == (0, "the two have the same history\n")


# Captions.


def test_captions_are_those_of_the_records(root):
    assert recorded_settings([FIGURE, "text.txt"]) == {
        "classes.top": 50,
        "tokens.context": 8,
        "pair.base.random.seed": 0,
        "pair.name": "p",
    }


def test_results_of_different_settings_do_not_share_a_page(root):
    make(root, "figure_planted", {}, "results/p/other.svg", {"classes.top": 60})
    with pytest.raises(
        UserError, match=r"made with classes\.top .0, another result on this page with .0; make both again"
    ):
        recorded_settings([FIGURE, "results/p/other.svg"])
