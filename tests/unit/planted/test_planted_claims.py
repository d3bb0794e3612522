"""Claims: verdicts and their quantities from small tables, and the figures and the page made from them."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers_planted import SCORING, THRESHOLDS, handmade, planted_pair, planted_settings, scored

from crossdiff.config import Classes
from crossdiff.intervals import student_mean
from crossdiff.planted.claims import CLAIMS, false_at, judge, recall_curve, verdict
from crossdiff.planted.scoring import calls, score
from crossdiff.report.figures import planted as figures_planted
from crossdiff.report.figures.drawing import save


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    pair = planted_pair(tmp_path_factory.mktemp("planted"), planted_settings())
    return {name: scored(handmade(pair[0], trap=name == "l1"), *pair) for name in ("batchtopk", "l1")}


def called_by_norm(
    kinds: list[str], difference: list[float], confirmed: list[bool] | None = None
) -> pd.DataFrame:
    """A table of latents, each of a concept of its own."""
    return pd.DataFrame(
        {
            "kind": kinds,
            "called_kind": kinds,
            "concept": range(len(kinds)),
            "relative_norm_difference": difference,
            "class": ["chat-only" if value >= 0.9 else "other" for value in difference],
            "confirmed": confirmed or [True] * len(kinds),
            "nu_error": 1 - np.array(difference),
            "nu_reconstruction": 1 - np.array(difference),
        }
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 3.1, 2.9], "holds"),
        ([0.1, -0.1, 0.05], "undecided"),
        ([-3.0, -3.1, -2.9], "does not hold"),
        ([5.0], "undecided"),
        ([5.0, math.nan], "undecided"),
    ],
)
def test_verdict(values: list[float], expected: str) -> None:
    _, low, high = student_mean(values)
    assert verdict(low, high, 0.0) == expected


def test_recall_curve_counts_concepts_once_and_sets_borderline_aside() -> None:
    table = called_by_norm(
        ["weakened", "chat_only", "chat_only", "borderline", "none", "chat_only"],
        [0.99, 0.98, 0.97, 0.96, 0.95, 0.94],
    )
    table.loc[2, "concept"] = 1  # a split
    curve = recall_curve(table, planted=4)
    assert curve.recall.tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0.5]
    assert curve.false_members.tolist() == [1, 1, 1, 1, 2, 2]
    assert (false_at(curve, 0.25), false_at(curve, 0.5)) == (1, 2)
    assert math.isnan(false_at(curve, 0.75))
    assert math.isnan(false_at(curve, 0))  # not the false members that happen to be called first


def test_equal_norm_differences_are_called_together() -> None:
    curve = recall_curve(called_by_norm(["chat_only", "weakened", "chat_only"], [1.0, 1.0, 0.9]), planted=2)
    assert curve.to_numpy().tolist() == [[2, 0.5, 1], [3, 1, 1]]


def test_quantities_of_claims() -> None:
    l1 = called_by_norm(
        ["chat_only", "weakened", "decoupled", "none"], [0.91, 0.99, 0.98, 0.97], [True, False, True, True]
    )
    batchtopk = called_by_norm(["chat_only", "chat_only", "weakened"], [0.99, 0.95, 0.5])
    found = judge({0: l1, 1: l1}, {0: batchtopk, 1: batchtopk}, planted=2)
    assert len(found) == len(CLAIMS)
    assert found["mean"].tolist() == pytest.approx([3, 2 / 3, 0.5, 1, 0.5])
    assert found.verdict.tolist() == ["holds", "holds", "undecided", "holds", "holds"]


def test_no_recall_leaves_false_members_undecided() -> None:
    l1 = called_by_norm(["weakened", "chat_only"], [0.99, 0.95])
    batchtopk = called_by_norm(["chat_only", "weakened"], [0.8, 0.7])  # calls nothing by norm
    found = judge({0: l1, 1: l1}, {0: batchtopk, 1: batchtopk}, planted=1)
    assert found.verdict[0] == "undecided"
    assert math.isnan(found["mean"][0])


@pytest.mark.parametrize("name", ["nu_error", "nu_reconstruction"])
def test_an_undefined_correlation_leaves_agreement_undecided(name: str) -> None:
    table = called_by_norm(["chat_only", "weakened", "shared"], [0.9, 0.7, 0.5]).assign(**{name: 0.5})
    found = judge({0: table, 1: table}, {0: table, 1: table}, planted=1)
    assert found.verdict[3] == "undecided"
    assert math.isnan(found["mean"][3])


def test_handmade_traps_bear_out_the_claims(tables: dict[str, pd.DataFrame]) -> None:
    found = judge(
        {0: tables["l1"], 1: tables["l1"]}, {0: tables["batchtopk"], 1: tables["batchtopk"]}, planted=5
    )
    assert found.verdict[[0, 1, 2, 4]].tolist() == ["holds"] * 4


def test_one_loss_leaves_everything_undecided(tables: dict[str, pd.DataFrame]) -> None:
    found = judge({}, {0: tables["batchtopk"]}, planted=5)
    assert set(found.verdict) == {"undecided"}
    assert found["mean"].isna().all()


def test_figures_of_any_table(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    by_seed = {(name, seed): table for name, table in tables.items() for seed in (0, 1)}
    rows = [
        {"crosscoder": name, "seed": seed, "rule": rule} | score(table, called, 5)
        for (name, seed), table in by_seed.items()
        for rule, called in calls(table, THRESHOLDS, SCORING).items()
    ]
    figure = figures_planted.calls(pd.DataFrame(rows), 5)
    [bars, *_] = figure.axes
    widths = [patch.get_width() for patch in bars.patches]
    first = [row for row in rows if row["crosscoder"] == "batchtopk" and row["seed"] == 0]
    assert sum(widths) == sum(row["called"] for row in first)
    save(figure, [str(tmp_path / "calls.svg")])
    save(figures_planted.false_members_against_recall(by_seed, 5), [str(tmp_path / "recall.svg")])
    save(figures_planted.roc(by_seed), [str(tmp_path / "roc.svg")])
    save(figures_planted.ratios(by_seed, SCORING), [str(tmp_path / "ratios.svg")])
    save(figures_planted.agreement(by_seed, Classes(), THRESHOLDS), [str(tmp_path / "agreement.svg")])
    assert "correlation" in (tmp_path / "agreement.svg").read_text()
    assert not plt.get_fignums()


def test_figures_where_nothing_was_found(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    empty = tables["l1"].assign(concept=-1, kind="none", called_kind="none", ratio=np.nan)
    by_seed = {("l1", 0): empty}
    for draw in (lambda: figures_planted.roc(by_seed), lambda: figures_planted.ratios(by_seed, SCORING)):
        save(draw(), [str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").stat().st_size > 1000
