"""What a run wrote, compared with crossdiff.results.described: files, rules, columns and keys."""

import json
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # h5py reads zstd with it
import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open

from crossdiff.errors import UserError
from crossdiff.provenance.records import SUFFIX, read_record
from crossdiff.results.described import PART, File, expanded, file_of

# Columns and keys that a run with the paper's two losses lacks. tests/pipeline/test_every_loss.py has them.
# The last needs ``steering.prompts`` (tests/pipeline/test_guide.py).
OF_OTHER_LOSSES = {
    *("prefix_loss", "l0_loss", "delta_loss", "partition", "target", "limits", "fve_difference"),
    *(
        "part",
        "norms_set",
        "base_only_set",
        "shared_set",
        "chat_only_set",
        "does_not_apply",
        "note",
        "sought",
    ),
    "on_prompts",
}


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


def outputs(folder: Path) -> list[str]:
    """Every file or folder that has a record."""
    return sorted(
        path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for path in (folder / "results").rglob(f"*{SUFFIX}")
    )


def untold(folder: Path, crosscoders: set[str], absent: set[str] = OF_OTHER_LOSSES) -> list[str]:
    """A line for every file, rule, column or key that is not described, or is described and not there.

    ``crosscoders``: their names in the config, which are columns of one table. ``absent``: what is there only
    sometimes, and not in this run, by name or as "file name".
    """
    wrong: list[str] = []
    missing: dict[str, set[str]] = {}
    for path in outputs(folder):
        try:
            file = file_of(path)
        except UserError as error:
            wrong.append(str(error))
            continue
        if (rule := read_record(folder / path).rule) not in file.rules:
            wrong.append(f"{path}: made by {rule}, described as made by {file.rules}")
        found = held(folder / path) if (folder / path).is_file() else None
        always, possible = _names(file, crosscoders)
        wrong += [f"{path}: {name} is not described" for name in sorted((found or set()) - possible)]
        wrong += [f"{path}: {name} is described, and not there" for name in sorted(always - (found or set()))]
        missing.setdefault(file.patterns[0], possible - always).difference_update(found or set())
    # What is there only sometimes has to be somewhere.
    for pattern, names in missing.items():
        wrong += [
            f"{pattern}: {name} is described, and in no file"
            for name in sorted(names - absent)
            if f"{Path(pattern).name} {name}" not in absent
        ]
    return sorted(wrong)


def _names(file: File, crosscoders: set[str]) -> tuple[set[str], set[str]]:
    """The columns that each such file has, and those that it may have."""
    parts = {"crosscoder": {name: name for name in crosscoders}}
    columns = [*expanded(file.columns.values(), parts)]
    assert not [column.name for column in columns if PART.search(column.name)]
    return {column.name for column in columns if not column.when}, {column.name for column in columns}
