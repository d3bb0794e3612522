"""The matrix of methods and organisms."""

import pandas as pd

from crossdiff.report.figures.organisms import FALSE, FOUND, NOT_SCORED, NOTHING, found_matrix

COLUMNS = "organism is_null in_text method crosscoder seed behaviour found_at_10 rank not_scored".split()
ROWS = [
    ["bow", False, True, "norm", "l1", 0, "bow", True, 3, ""],
    ["bow", False, True, "norm", "l1", 1, "bow", False, None, ""],  # not shown: another seed
    ["bow", False, True, "scaling", "d", 0, "bow", None, None, "no base decoder"],
    ["bow", False, True, "diff mining", "", 0, "bow", False, None, ""],
    ["plain", True, False, "norm", "l1", 0, "bow", False, None, ""],
    ["plain", True, False, "norm", "l1", 0, "nod", False, None, ""],
    ["plain", True, False, "scaling", "d", 0, "bow", None, None, "no base decoder"],
    ["plain", True, False, "scaling", "d", 0, "nod", None, None, "no base decoder"],
    ["plain", True, False, "diff mining", "", 0, "bow", True, 9, ""],
    ["plain", True, False, "diff mining", "", 0, "nod", True, 2, ""],
]


def test_places_of_finds_and_numbers_of_false_ones() -> None:
    (ax,) = found_matrix(pd.DataFrame(ROWS, columns=COLUMNS)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "l1, norm",
        "d, scaling",
        "diff mining",
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["bow", "plain"]
    [image] = ax.images
    assert image.get_array().tolist() == [[FOUND, NOTHING], [NOT_SCORED] * 2, [NOTHING, FALSE]]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "3", (1, 2): "2"}


def test_organisms_of_the_text_stand_first() -> None:
    rows = [["nod", False, False, "norm", "l1", 0, "nod", True, 7, ""], *ROWS]
    (ax,) = found_matrix(pd.DataFrame(rows, columns=COLUMNS)).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["bow", "nod", "plain"]
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 1.5]
    [above] = ax.child_axes
    assert [label.get_text() for label in above.get_xticklabels()] == ["in the\ntext", "not\nin it", "nulls"]
    assert {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}[1, 0] == "7"
