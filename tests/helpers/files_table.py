"""docs/files.md as data: which files there are, who makes them, and which columns or keys they hold."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import hdf5plugin  # noqa: F401  # h5py reads zstd with it
import pandas as pd
import pyarrow.parquet as pq
from conftest import ROOT
from safetensors import safe_open

from crossdiff.provenance.records import SUFFIX, read_record

DOCUMENT = ROOT / "docs/files.md"
CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    """One line of a table of files."""

    patterns: list[str]
    rules: list[str]
    columns: set[str]  # empty where the table describes the file in words

    def matches(self, path: str) -> bool:
        return any(
            re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(pattern.rstrip("/"))), path)
            for pattern in self.patterns
        )


def rows() -> list[Row]:
    """Every file of a run."""
    parts, found, below = _parts(), [], ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            below = ""
        elif line.startswith("Below `"):
            below = CODE.search(line)[1]
        elif line.startswith("| `") and line.count("|") == 4 and "results/" in below + line:
            cells = line.strip("|").split("|")
            told, _, without = cells[2].partition(" without ")
            files, rules, columns = CODE.findall(cells[0]), CODE.findall(cells[1]), CODE.findall(told)
            known = {name for row in found for pattern in row.patterns for name in [Path(pattern).name]}
            names = {name for column in columns if column not in known for name in _expanded(column, parts)}
            taken = {name for column in columns if column in known for name in _of(column, found).columns}
            found.append(
                Row([below + file for file in files], rules, (names | taken) - set(CODE.findall(without)))
            )
    return found


def _of(name: str, found: list[Row]) -> Row:
    return next(row for row in found if any(Path(pattern).name == name for pattern in row.patterns))


def _parts() -> dict[str, list[str]]:
    """{part} of a column -> what it stands for."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("| part |")[2].partition("\n\n")[0]
    cells = [CODE.findall(line) for line in table.splitlines() if line.startswith("| `")]
    return {name.strip("{}"): values for name, *values in cells}


def _expanded(column: str, parts: dict[str, list[str]]) -> Iterator[str]:
    names = re.findall(r"{(\w+)}", column)
    for chosen in itertools.product(*(parts[name] for name in names)):
        yield column.format(**dict(zip(names, chosen, strict=True)))


def held(path: Path) -> set[str] | None:
    """The columns, keys or tensors of a file; None for one that has none of these."""
    match path.suffix:
        case ".csv":
            return set(pd.read_csv(path, nrows=0).columns)
        case ".parquet":
            return set(pq.read_schema(path).names)
        case ".json":
            return set(json.loads(path.read_text()))
        case ".h5":
            with h5py.File(path) as file:
                return set(file)
        case ".safetensors":
            with safe_open(path, "pt") as file:
                return set(file.keys())
        case _:
            return None


# Columns that a config decides: names of crosscoders, and the parts of the losses that it uses.
DECIDED = {"reconstruction_loss", "auxiliary_loss", "sparsity_loss", "paper_batchtopk", "paper_l1"}


def outputs(folder: Path) -> list[str]:
    """Every file or folder that has a record."""
    return sorted(
        path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for path in (folder / "results").rglob(f"*{SUFFIX}")
    )


def row_of(path: str) -> Row:
    found = [row for row in rows() if row.matches(path)]
    assert found, f"docs/files.md has no row for {path}"
    return found[-1]


def untold(folder: Path) -> list[str]:
    """Compare the results with docs/files.md.

    Gives a line for every file, column or key that is not described, or is described and missing.
    """
    wrong = []
    for path in outputs(folder):
        row, columns = row_of(path), held(folder / path) if (folder / path).is_file() else None
        if (rule := read_record(folder / path).rule) not in row.rules:
            wrong.append(f"{path}: made by {rule}, docs/files.md says {row.rules}")
        if columns is not None and row.columns:
            names = {"batchtopk", "l1"} if path.endswith("paper.csv") else set()
            wrong += [f"{path}: {column} is not told" for column in sorted(columns - row.columns - names)]
            wrong += [
                f"{path}: {column} is told, and not there"
                for column in sorted(row.columns - columns - DECIDED)
            ]
    return wrong
