"""A reader of LaTeX that finds what would stop a compiler, or what would be printed as another character."""

import csv
import re
from pathlib import Path

ESCAPE = re.compile(r"\\[&%$#_{}\\]")
MATH = re.compile(r"\$[^$]*\$")
COMMENT = re.compile(r"^%.*", re.MULTILINE)
BEGIN_OR_END = re.compile(r"\\(begin|end)\{(\w+)\}")


def faults(text: str) -> list[str]:
    """What is wrong: environments and braces that do not close, and characters that are not escaped."""
    text = COMMENT.sub("", text)
    found, opened = [], []
    for kind, name in BEGIN_OR_END.findall(text):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            found.append(f"end of {name}")
    found += [f"{name} stays open" for name in opened]
    bare = MATH.sub("", ESCAPE.sub("", text.replace(r"\\", "")))
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            found.append("a brace too many")
            break
    if depth > 0:
        found.append("a brace stays open")
    outside = re.sub(r"\\cite\{[^}]*\}", "", bare)
    cells = len(re.findall("&", outside))
    if cells and "tabular" not in text:
        found.append("& outside of a table")
    return found + [f"{character} is not escaped" for character in '%$#_^"<>|' if character in outside]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, row by row, with its escapes."""
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [re.split(r" (?<!\\)& ", line.removesuffix(r"\\").strip()) for line in lines]


def check_cells(table: Path) -> None:
    """Fail unless the ``.tex`` next to a CSV file is LaTeX with the cells of that file."""
    text = table.with_suffix(".tex").read_text(encoding="utf-8")
    assert not faults(text), table
    with table.open(newline="", encoding="utf-8") as file:
        given = list(csv.reader(file))
    cells = rows(text)
    if len(cells) != len(given):  # turned
        cells = [list(column) for column in zip(*cells, strict=True)]
    found = [[_plain(cell) for cell in row] for row in cells]
    assert found == [[cell or "--" for cell in row] for row in given], table


def _plain(cell: str) -> str:
    power = re.fullmatch(r"\$(.*) \\times 10\^{(-?)(\d+)}\$", cell)
    if power:
        return f"{power[1]}e{power[2] or '+'}{int(power[3]):02d}"
    return re.sub(r"\\([_%&#$])", r"\1", cell.strip("$"))
