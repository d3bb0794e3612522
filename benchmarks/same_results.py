"""Compare two results folders: do they hold the same weights, activations, tables and drawings?

    python benchmarks/same_results.py OLD/results NEW/results

OLD is of version 0.1 and NEW of this version; the tables of the CHANGELOG translate paths and words. Two
folders of this version are compared with --same-layout. What files hold is compared, not their bytes, since a
result carries the id of its record, which names its code. The exit code is 1 where anything differs or is
missing.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # h5py reads zstd with it
import numpy as np
import pandas as pd
from safetensors.torch import load_file

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
WILDCARD = re.compile(r"\\{(\w+)\\}")
# Not compared: pages name settings and files, records name code, and folders of tokenizers and models hold
# transformers' own files.
SKIPPED = re.compile(r"\.record\.json$|\.html$|\.js$|\.css$|\.png$|(^|/)\.|vendor/|\.whl$|README|LICENSE")


def rows(heading: str) -> Iterator[list[str]]:
    """Give the code spans of each row of the CHANGELOG's table below ``heading``."""
    section = CHANGELOG.read_text(encoding="utf-8").partition(f"#### {heading}\n")[2].partition("\n#")[0]
    for line in section.splitlines():
        if line.startswith("|") and (spans := re.findall(r"`([^`]+)`", line)):
            yield spans


def new_paths(path: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """Give the places where version 0.2 may put a file of version 0.1.

    There is a glob below the results folder for each matching row of the table.
    """
    for old, new in patterns:
        if found := old.fullmatch(path):
            parts = {"layer": "*"} | found.groupdict()  # one layer, which 0.1 did not always name
            role = "base" if "unplanted" in path else parts.get("role")
            yield new.format(
                **parts,
                chat=f"{parts.get('pair')}-chat",
                base=f"{parts.get('pair')}-base",
                model=f"{parts.get('pair')}-{role}",
            )


def path_patterns() -> list[tuple[re.Pattern[str], str]]:
    found = []
    for old, new, *_ in rows("Paths"):
        pattern = WILDCARD.sub(
            lambda match: f"(?P<{match[1]}>{'.+' if match[1] == 'rest' else '[^/]+?'})", re.escape(old)
        )
        found.append((re.compile(pattern), new))
    return found


def read(path: Path, words: dict[str, str], left_out: dict[str, str]) -> Any:
    """Read what a file holds, in a form that compares. ``words`` translates words of the old version.

    ``left_out``: file name -> a key that the new version does not write.
    """
    match path.suffix:
        case ".safetensors":
            return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
        case ".h5":
            with h5py.File(path) as file:
                return {name: file[name][:] for name in file}
        case ".csv" | ".parquet":
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            columns = {words.get(name, name): table[name].to_numpy() for name in table}
            text = {name for name, values in columns.items() if values.dtype == object}
            return {
                name: [words.get(value, value) if isinstance(value, str) else value for value in values]
                if name in text
                else values
                for name, values in columns.items()
            }
        case ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            key = left_out.get(path.name)
            return {name: value for name, value in values.items() if name != key} if key else values
        case ".svg":  # the drawing without its words: these are mended now and then
            text = re.sub(
                r"<metadata>.*?</metadata>|<!--.*?-->|<text.*?</text>",
                "",
                path.read_text(encoding="utf-8"),
                flags=re.DOTALL,
            )
            return re.findall(r' d="([^"]*)"| (?:x|y|width|height)="([^"]*)"', text)
        case _:
            return path.read_bytes()


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    missing = [value is None or value != value for value in (one, other)]
    return all(missing) or (not any(missing) and bool(one == other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--same-layout", action="store_true", help="both folders are of this version")
    options = parser.parse_args()
    words = {} if options.same_layout else {old: new for old, new, *_ in rows("Words in tables")}
    left_out = {} if options.same_layout else dict(rows("Left out"))
    patterns = path_patterns()
    compared, wrong, seen = 0, [], set()
    for path in sorted(path for path in options.old.rglob("*") if path.is_file()):
        name = path.relative_to(options.old).as_posix()
        if SKIPPED.search(name):
            continue
        targets = [name] if options.same_layout else list(new_paths(name, patterns))
        found = (
            path.relative_to(options.new).as_posix()
            for target in targets
            for path in options.new.glob(target)
        )
        target = next(found, None)
        if not targets:
            wrong.append(f"{name}: no row of the CHANGELOG's table of paths")
        elif target is None:
            wrong.append(f"{name}: {targets[0]} is not there")
        else:
            seen.add(target)
            compared += 1
            if not equal(read(path, words, left_out), read(options.new / target, {}, {})):
                wrong.append(f"{name}: {target} holds something else")
    known = (path.relative_to(options.new).as_posix() for path in options.new.rglob("*") if path.is_file())
    new = sorted(name for name in known if name not in seen and not SKIPPED.search(name))
    print(
        *wrong,
        *(f"new: {name}" for name in new),
        f"{compared} files compared, {len(wrong)} differ or are missing.",
        sep="\n",
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
