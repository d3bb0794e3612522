"""Made-up files of a first look, for its page and its section of the report."""

from pathlib import Path

import numpy as np
import pandas as pd
from helpers_report import HOSTILE

from crossdiff.provenance.storage import write_csv, write_json, write_parquet
from crossdiff.report.figures.drawing import write
from crossdiff.report.figures.first_look import over_layers
from crossdiff.report.first_look import FirstLookInputs
from crossdiff.texts.chats import CONTENT, HEADER

SUMMARY = {
    "tokens": 2000,
    "sequences": 30,
    "conversations": 2,
    "kl": 0.125,
    "largest_difference": 0.5,
    "equal": False,
    "suggested_layer": 1,
    "reason": "the base's activations there bring back 0.5 of 1 nats",
    "strength": 0.5,
}
LAYERS = pd.DataFrame(
    {
        "layer": [0, 1, 2],
        "relative_difference": [0.1, 0.2, 0.5],
        "cosine": [0.99, 0.9, 0.8],
        "norm_base": [1.0, 2.0, 3.0],
        "norm_chat": [1.0, 2.5, 3.5],
        "outliers_base": 0,
        "outliers_chat": 2,
        "outliers_first": [np.nan, 1.0, 1.0],
        "kl_patched": [np.nan, 0.5, 1.0],
    }
)
ANSWERS = pd.DataFrame(
    [
        (number, "talk", f"prompt {number}", condition, answer, condition != "chat")
        for number in range(2)
        for condition, answer in (("base", HOSTILE), ("chat", "no"), ("text", "well"), ("random", "hm"))
    ],
    columns=["prompt", "dataset", "prompt_text", "condition", "answer", "changed"],
)
WHERE = pd.DataFrame(
    [("role", "user", 1500, 0.1, 0.6), ("role", "assistant", 500, 0.2, 0.4), ("token", "5", 7, 1.5, 0.1)],
    columns=["by", "value", "tokens", "kl", "share"],
)


def context(name: str) -> dict[str, object]:
    return {
        "set": name,
        "dataset": "talk",
        "at": 1,
        "tokens": np.array([0, 5, 2]),
        "values": np.array([0.0, 4.0, 1.0]),
        "template": np.array([HEADER, CONTENT, CONTENT]),
        "promoted": np.array([7]),
        "promoted_by": np.array([2.0]),
    }


MEANS = pd.DataFrame(
    {
        "kind": ["text", "template"],
        "position": pd.array([0, None], dtype="Int64"),
        "token": pd.array([None, 0], dtype="Int64"),
        "role": [None, "assistant"],
        "tokens": [9, 8],
        "norm": [1.0, 2.0],
        "relative_norm": [0.25, 0.5],
        "promoted": [[5, 1], [2, 3]],
        "promoted_by": [[9.5, 1.0], [4.0, 3.0]],
        "suppressed": [[6], [8]],
        "suppressed_by": [[-3.0], [-4.0]],
        "random_by": 3.5,
    }
)
TOPICS = pd.DataFrame({"topic": [1], "share": [1.0], "tokens": [[5, 7]], "entries": [[1.0, 0.5]]})


def first_look_files(folder: Path, asked: list[str] | None = None, summary=SUMMARY, rows: int | None = None):
    """Write tables with at most ``rows`` rows each, but for those of layers and groups, and the figure."""
    tables = {
        "layers.csv": LAYERS,
        "where.csv": WHERE,
        "contexts.parquet": pd.DataFrame([context("kl"), context("topic 1")])[:rows],
        "mean_differences.parquet": MEANS[:rows],
        "promoted.csv": pd.DataFrame({"token": [5], "share": [0.5], "mean": [2.0]})[:rows],
        "topics.parquet": TOPICS[:rows],
        "answers.parquet": ANSWERS[:rows],
    }
    for name, table in tables.items():
        (write_csv if name.endswith("csv") else write_parquet)(folder / name, table)
    write_json(folder / "summary.json", summary)
    drawn = [str(folder / "layers.svg"), str(folder / "layers.json")]
    write(over_layers, drawn[:1], drawn[1], LAYERS, 1)
    told = ""
    if asked is not None:
        told = str(folder / "asked.csv")
        write_csv(told, pd.DataFrame({"difference": pd.Series(asked, dtype=str)}))
    paths = [str(folder / name) for name in (*tables, "summary.json")]
    found = FirstLookInputs.of([*paths, *drawn], told)
    assert found is not None
    return found
