"""Balanced accuracy and its interval, the comparison of sets of latents, and its figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_latents import classed
from helpers_tables import scaling_table

from crossdiff.explanations.comparison import FEW_LATENTS, by_quantile, cautions, compare, sets, stacked
from crossdiff.explanations.scores import FEWEST, balanced_accuracy
from crossdiff.report.figures.drawing import save
from crossdiff.report.figures.explanations import Scores, by_scores


def test_balanced_accuracy_is_half_of_both_rates() -> None:
    score, low, high = balanced_accuracy(
        np.array([10, 5]), np.array([10, 10]), [(np.array([20, 0]), np.array([20, 10]))]
    )
    assert score.tolist() == [1, 0.25]
    assert 0.8 < low[0] < 1 and high[0] == 1 and low[1] < 0.25 < high[1]
    more = balanced_accuracy(np.array(100), np.array(100), [(np.array(100), np.array(100))])
    assert more[1] > low[0]  # more contexts, a narrower interval


def test_each_kind_of_negative_counts_alike() -> None:
    score, _, _ = balanced_accuracy(
        np.array(10), np.array(10), [(np.array(100), np.array(100)), (np.array(0), np.array(10))]
    )
    assert score == pytest.approx(0.75)


@pytest.mark.parametrize(("positives", "negatives"), [(FEWEST - 1, 50), (50, FEWEST - 1), (0, 0)])
def test_few_contexts_have_no_score(positives: int, negatives: int) -> None:
    values = balanced_accuracy(
        np.array(positives), np.array(positives), [(np.array(negatives), np.array(negatives))]
    )
    assert all(np.isnan(value) for value in values)


@pytest.mark.parametrize("rate", [0.6, 0.95])
def test_intervals_hold_the_truth_in_19_of_20_cases(rate: float) -> None:
    generator = np.random.default_rng(0)
    hits, refused = generator.binomial(25, rate, 4000), generator.binomial(25, 0.8, 4000)
    _, low, high = balanced_accuracy(hits, np.full(4000, 25), [(refused, np.full(4000, 25))])
    assert 0.93 < ((low <= (rate + 0.8) / 2) & (high >= (rate + 0.8) / 2)).mean() < 0.985


# Sets of latents


def table_of(classes: list[str], nu: np.ndarray) -> pd.DataFrame:
    ratios = scaling_table([0.5] * len(classes), nu, nu)[["latent", "nu_error", "nu_reconstruction"]]
    return classed(classes).merge(ratios, on="latent")


BETAS = table_of(["shared"] * 60 + ["chat-only"] * 30, np.linspace(1.2, 0.1, 90))


def scores_of(detection: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"latent": range(len(detection)), "detection": detection})


def test_sets_are_those_of_the_paper() -> None:
    found = {name: latents.latent.tolist() for name, (latents, _) in sets(BETAS, 10).items()}
    assert found["chat-only"] == list(range(60, 90)) and found["shared"] == list(range(60))
    assert sorted(found["low nu"]) == list(range(75, 90)) and sorted(found["high nu"]) == list(range(60, 75))
    without = sets(table_of(["shared"] * 90, np.linspace(1.2, 0.1, 90)), 10)
    assert (
        sorted(without["most chat-leaning"][0].latent) == list(range(80, 90)) and "chat-only" not in without
    )


def test_a_difference_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    detection = generator.normal(0.6, 0.1, 90)
    detection[60:] += 0.2
    detection[3] = np.nan
    table = compare(BETAS, scores_of(detection), 10).set_index("set")
    chat, shared, low = table.loc["chat-only"], table.loc["shared"], table.loc["low nu"]
    assert (shared.latents, shared.scored) == (60, 59) and chat.against == "shared"
    assert chat.detection == pytest.approx(detection[60:].mean()) and chat.low < chat.detection < chat.high
    half = 1.96 * detection[60:].std() / 30**0.5
    assert (chat.low, chat.high) == pytest.approx((chat.detection - half, chat.detection + half), abs=0.01)
    assert 0.1 < chat.difference_low < chat.difference < chat.difference_high < 0.3
    assert (chat.difference, chat.difference_low) == pytest.approx(
        (-shared.difference, -shared.difference_high)
    )
    assert low.difference_low < 0 < low.difference_high
    assert not table.too_few.any()


def test_sets_are_drawn_one_after_the_other_from_one_generator() -> None:
    detection = np.random.default_rng(1).random(90)
    table = compare(BETAS, scores_of(detection), 10).set_index("set")
    generator, means = np.random.default_rng(0), {}
    for name, (latents, _) in sets(BETAS, 10).items():
        values = detection[latents.latent]
        means[name] = np.array(
            [values[generator.integers(0, len(values), len(values))].mean() for _ in range(2000)]
        )
    for name, against in table.against.items():
        assert tuple(table.loc[name, ["low", "high"]]) == tuple(np.quantile(means[name], [0.025, 0.975]))
        difference = np.quantile(means[name] - means[against], [0.025, 0.975])
        assert tuple(table.loc[name, ["difference_low", "difference_high"]]) == tuple(difference)


def test_small_and_empty_sets_say_so() -> None:
    betas = table_of(["shared"] * 3 + ["chat-only"] * 30, np.full(33, 99.0))  # implausible ratios: no halves
    table = stacked({("patterns", "l1", 0): compare(betas, scores_of(np.full(33, 0.7)), 10)})
    assert table.too_few.all() and np.isnan(table.set_index("set").detection["low nu"])
    assert cautions(table) == ["l1, patterns: shared (3 scored), low nu (0 scored), high nu (0 scored)"]
    # A column of counts with a hole is read as numbers with a point.
    assert "shared (3 scored)" in cautions(table.assign(scored=table.scored.astype(float)))[0]
    assert cautions(table.assign(too_few=False)) == []
    assert list(table.columns[:3]) == ["explainer", "crosscoder", "seed"]


def test_recall_per_quantile() -> None:
    quantiles = pd.DataFrame(
        {
            "latent": [0, 1, 60, 61, 60],
            "quantile": [0.5, 0.5, 0.5, 0.5, 1.0],
            "recall": [0.0, 1.0, 0.5, 0.7, 0.9],
        }
    )
    table = by_quantile(BETAS, quantiles, 10)
    assert table[["set", "quantile"]].to_numpy().tolist() == [
        ["chat-only", 0.5],
        ["chat-only", 1.0],
        ["shared", 0.5],
    ]
    assert table.recall.tolist() == pytest.approx([0.6, 0.9, 0.5])


def test_figure_shows_every_set_and_which_are_too_small(tmp_path: Path) -> None:
    quantiles = pd.DataFrame({"latent": range(90), "quantile": 0.5, "recall": 0.5})
    scores = scores_of(
        np.r_[np.full(60, 0.5), np.full(FEW_LATENTS - 1, 0.9), np.full(31 - FEW_LATENTS, np.nan)]
    )
    empty = Scores(BETAS, scores_of(np.full(90, np.nan)), quantiles.head(0))
    figure = by_scores(
        {("patterns", "l1"): Scores(BETAS, scores, quantiles), ("language model", "l1"): empty}, 10
    )
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == f"chat-only\n{FEW_LATENTS - 1} of 30\ntoo few" and labels[1] == "shared\n60 of 60"
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["l1, patterns", "l1, language model"]
    save(figure, [str(tmp_path / "figure.svg"), str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.svg").stat().st_size > 1000
