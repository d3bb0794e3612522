"""What methods find and cost, against numbers worked out by hand."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from helpers_activations import LAYER
from helpers_codes import active_file
from helpers_planted import D_MODEL, SCORING, planted_pair, planted_settings

from crossdiff.config import CHAT
from crossdiff.crosscoders.model import DIFFERENCE, Crosscoder
from crossdiff.planted import methods
from crossdiff.planted.concepts import Concepts, write_concepts
from crossdiff.planted.kinds import NONE
from crossdiff.planted.matching import of_difference
from crossdiff.planted.methods import methods_table, recall_table, seconds_per_step

CONCEPTS = pd.DataFrame(
    {
        "concept": range(6),
        "kind": ["chat_only"] * 4 + ["weakened"] * 2,
        "frequency": [0.004, 0.0059, 0.006, 0.02, 0.01, 0.01],
    }
)


def test_recall_by_frequency_is_a_mean_over_seeds() -> None:
    # Latents of concepts 0, 2, 3, 4 and none; with the second seed of 2, 2 again, 5 and none.
    tables = {
        ("a", 0): pd.DataFrame({"concept": [0, 2, 3, 4, -1]}),
        ("a", 1): pd.DataFrame({"concept": [2, 2, 5, -1]}),
    }
    called = {("a", 0): np.array([1, 1, 0, 1, 1], bool), ("a", 1): np.array([1, 0, 0, 0], bool)}
    table = recall_table(CONCEPTS, tables, called).set_index(["kind", "frequency"])
    assert table.planted.to_dict() == {
        ("chat_only", "all"): 4,
        ("chat_only", "rare"): 2,
        ("chat_only", "frequent"): 2,
        ("weakened", "all"): 2,
        ("weakened", "frequent"): 2,
    }
    assert table.found["chat_only"].tolist() == [(3 / 4 + 1 / 4) / 2, (1 / 2 + 0) / 2, (2 / 2 + 1 / 2) / 2]
    assert table.recall["chat_only"].tolist() == [(2 / 4 + 1 / 4) / 2, (1 / 2 + 0) / 2, (1 / 2 + 1 / 2) / 2]
    assert table.found["weakened"].tolist() == [0.5, 0.5] and table.recall["weakened"].isna().all()
    assert table.found_low["weakened"].tolist() == [0.5, 0.5]
    assert table.found_low["chat_only", "rare"] < 0.25 < table.found_high["chat_only", "rare"] <= 1
    assert "does_not_apply" not in table


def test_cost_is_relative_to_the_default() -> None:
    quality = pd.DataFrame(
        {
            "crosscoder": ["a", "a", "b"],
            "l0": [30.0, 32.0, 40.0],
            "dead": [1, 2, 0],
            "fve_base": [0.7, 0.8, 0.5],
            "fve_chat": [0.6, 0.8, 0.4],
        }
    )
    losses = {"a": "batchtopk", "b": "l1"}
    table = methods_table(losses, quality, {"a": 0.2, "b": 0.3}, "a").set_index("crosscoder")
    assert table.loc["a", ["seeds", "l0", "dead", "fve_base", "fve_chat"]].tolist() == pytest.approx(
        [2, 31, 1.5, 0.75, 0.7]
    )
    assert table.cost.tolist() == pytest.approx([1, 1.5])
    assert methods_table(losses, quality, {"a": 0.2, "b": 0.3}, None).cost.isna().all()
    together = methods_table(losses, quality, {}, "a")
    assert together[["seconds_per_step", "cost"]].isna().all(axis=None)


def test_seconds_of_a_step_are_the_median_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"a.csv": "10:00:21", "b.csv": "10:01:01", "c.csv": "10:00:31"}
    for name in ends:
        pd.DataFrame({"step": [50, 100]}).to_csv(tmp_path / name, index=False)

    def read_record(path: str) -> SimpleNamespace:
        day = "2026-01-01T"
        run = {"started": f"{day}10:00:00+00:00", "finished": f"{day}{ends[Path(path).name]}+00:00"}
        return SimpleNamespace(run=run | {"recording_seconds": 1.0})

    monkeypatch.setattr(methods, "read_record", read_record)
    assert seconds_per_step([str(tmp_path / name) for name in ends]) == pytest.approx(0.3)  # .2, .6 and .3


def test_directions_in_the_difference() -> None:
    x, y = torch.eye(2)
    turned = (x + y) / math.sqrt(2)
    ratios = pd.DataFrame({"ratio": [0.0, math.inf, 0.25, 1.0, 1.0]})
    pairs = [(x, x), (x, x), (x, x), (x, x), (x, turned)]
    found = of_difference(Concepts(ratios, torch.stack([torch.stack(pair) for pair in pairs])))
    rotated = torch.tensor([turned[0] - 1, turned[1]])
    expected = torch.stack([x, -x, x, x, rotated / rotated.norm()])
    for model in range(2):
        torch.testing.assert_close(found[:, model], expected)


def test_a_method_of_the_difference_finds_what_differs(tmp_path: Path) -> None:
    concepts, activations, fired = planted_pair(tmp_path, planted_settings())
    directions = of_difference(concepts)[:, CHAT]
    crosscoder = Crosscoder(D_MODEL, len(directions), LAYER)
    crosscoder.target = DIFFERENCE
    with torch.no_grad():
        for weights in (crosscoder.encoder, crosscoder.decoder):
            weights.zero_()
        crosscoder.decoder[:, CHAT] = directions
        crosscoder.encoder[:, CHAT] = torch.linalg.pinv(directions).T  # exact codes
        crosscoder.threshold.fill_(0.1)
    paths = {name: str(tmp_path / name) for name in ("weights.safetensors", "config.json", "firings.parquet")}
    crosscoder.save(paths["weights.safetensors"], paths["config.json"], {})
    fired.to_parquet(paths["firings.parquet"])
    truth = str(tmp_path / "truth.csv"), str(tmp_path / "directions.safetensors")
    write_concepts(*truth, concepts)
    runpy.run_path(str(ROOT / "workflow_scripts/match_concepts.py"))["main"](
        str(active_file(tmp_path / "active.parquet", crosscoder, activations)),
        [paths["firings.parquet"]],
        *truth,
        paths["weights.safetensors"],
        paths["config.json"],
        SCORING,
        str(tmp_path / "matches.csv"),
    )
    found = pd.read_csv(tmp_path / "matches.csv")
    sought = concepts.table.kind.isin(["chat_only", "base_only", "weakened"])
    assert (found.concept[sought] == concepts.table.concept[sought]).all()
    assert (found.concept[concepts.table.kind == "shared"] == NONE).all()
