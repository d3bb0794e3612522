"""LaTeX of names and numbers as people have them, and of tables."""

from pathlib import Path

import pytest
from helpers_latex import faults, rows

from crossdiff.report.latex import EMPTY, code, escaped, number, table


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gemma_2-2b", r"gemma\_2-2b"),
        ("50% & #1", r"50\% \& \#1"),
        (r"C:\models", r"C:\textbackslash{}models"),
        ("{a}^~$", r"\{a\}\textasciicircum{}\textasciitilde{}\$"),
        ('<"|>', r"\textless{}\textquotedbl{}\textbar{}\textgreater{}"),
        ("two\nlines", "two lines"),
        ("Dumas, Clément", "Dumas, Clément"),
    ],
)
def test_text_is_printed_as_it_stands(text: str, said: str) -> None:
    assert escaped(text) == said
    assert not faults(escaped(text)) and not faults(code(text))


@pytest.mark.parametrize("text", ["a_b", "50% {", "a & b", "#", r"\begin{tabular}"])
def test_what_is_not_escaped_is_found(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (24_000_000, "24,000,000"),
        (8.0, "8"),
        (0.03125, "0.03125"),
        (1e-4, "0.0001"),
        (3e-5, r"$3 \times 10^{-5}$"),
        (-0.1, "$-0.1$"),
    ],
)
def test_number(value: float, said: str) -> None:
    assert number(value) == said


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "table.csv").write_text(text)
    found = table(tmp_path / "table.csv")
    assert not faults(found)
    return found


def test_table_has_the_digits_of_the_file_and_a_dash_for_an_empty_cell(tmp_path: Path) -> None:
    found = written(tmp_path, 'my_name,value\n"50% & more",0.100000\nb#1,-1.5e-05\nc,\n')
    assert rows(found) == [
        [r"my\_name", "value"],
        [r"50\% \& more", "0.100000"],
        [r"b\#1", r"$-1.5 \times 10^{-5}$"],
        ["c", EMPTY],
    ]
    assert found.startswith("\\begin{tabular}{lr}\n\\toprule\n")
    assert found.endswith("\\bottomrule\n\\end{tabular}\n")


def test_wide_table_is_turned(tmp_path: Path) -> None:
    names = ["crosscoder", *(f"column_{number}" for number in range(9))]
    found = written(
        tmp_path,
        ",".join(names) + "\n" + "\n".join("abcdefghij"[:1] * 0 + f"x{i}" + ",1" * 9 for i in (0, 1)) + "\n",
    )
    assert rows(found)[:2] == [["crosscoder", "x0", "x1"], [r"column\_0", "1", "1"]]
    assert len(rows(found)) == 10


def test_long_text_breaks_its_lines(tmp_path: Path) -> None:
    assert r"{lp{0.3\linewidth}}" in written(tmp_path, f"a,b\nx,{'long words ' * 9}\n")


def test_table_without_rows_keeps_its_head(tmp_path: Path) -> None:
    assert rows(written(tmp_path, "a,b\n")) == [["a", "b"]]
