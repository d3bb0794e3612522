"""LaTeX: text in which no character has a meaning of its own, numbers, and CSV tables by booktabs."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossdiff.provenance.storage import atomic_path, record_mark

# Characters that LaTeX takes for a command, or prints as another character.
ESCAPED: Mapping[int, str] = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",  # needs T1 fonts, as in most papers
        "\n": " ",
        "\r": " ",
        "\t": " ",
    }
)
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
WIDE = 8  # columns; a table with more of them, and with fewer rows, is turned to fit a page
LONG = 40  # characters; a column with longer cells breaks its lines
EMPTY = "--"


def escaped(text: str) -> str:
    """Return the text so that LaTeX prints it as it stands, on one line."""
    return text.translate(ESCAPED)


def code(text: str) -> str:
    """Return a name or a key in typewriter letters."""
    return rf"\texttt{{{escaped(text)}}}"


def number(value: float) -> str:
    """Return a number: whole ones with commas, others with up to six digits."""
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{int(value):,}" if whole else _typeset(f"{value:.6g}")


def table(path: str | Path) -> str:
    """Return a CSV file as a ``tabular`` with the rules of booktabs. Cells stand as they do in the file.

    Columns of numbers are set to the right. An empty cell becomes a dash. A table with more than WIDE
    columns and fewer rows is turned: its columns become rows.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows: list[Sequence[str]] = list(csv.reader(file))
    turned = len(rows[0]) > max(WIDE, len(rows) - 1) and len(rows) > 1
    if turned:
        rows = list(zip(*rows, strict=True))
    columns = list(zip(*rows, strict=True))
    align = "".join(_align(column[1:], turned and place > 0) for place, column in enumerate(columns))
    head, *body = (" & ".join(_cell(cell) for cell in row) + r" \\" for row in rows)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def write(path: str | Path, text: str) -> None:
    """Write a file of LaTeX or BibTeX. Its last line, a comment, holds the id of its record."""
    marks = "".join(f"% {mark}\n" for mark in record_mark(path).values())
    with atomic_path(path) as temporary:
        temporary.write_text(text + marks, encoding="utf-8")


def _cell(text: str) -> str:
    return _typeset(text) if _is_number(text) else escaped(text) or EMPTY


def _typeset(number: str) -> str:
    """Return the same digits, with a minus sign that is none of a word, and with a power of ten as such."""
    digits, _, power = number.partition("e")
    if power:
        return rf"${digits} \times 10^{{{int(power)}}}$"
    return f"${digits}$" if digits.startswith("-") else digits


def _align(cells: Sequence[str], turned: bool) -> str:
    """The letter of a column. One of a turned table holds the values of a row, which are mostly numbers."""
    if any(len(cell) > LONG for cell in cells):
        return r"p{0.3\linewidth}"
    return "r" if turned or all(_is_number(cell) for cell in cells if cell) else "l"


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None
