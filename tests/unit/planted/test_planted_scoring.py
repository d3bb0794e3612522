"""Scores of handmade crosscoders follow from arithmetic, and statistics agree with brute force."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_codes import active_file
from helpers_planted import (
    SCORING,
    THRESHOLDS,
    brute_force_correlation,
    handmade,
    planted_pair,
    planted_settings,
    scored,
)
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.planted.kinds import NONE
from crossdiff.planted.matching import correlations
from crossdiff.planted.planting import strengths
from crossdiff.planted.scoring import (
    CALLED,
    area_under_roc,
    calls,
    default_of,
    fit,
    leaderboard,
    recovery,
    score,
    statistics,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    return planted_pair(tmp_path_factory.mktemp("planted"), planted_settings())


@pytest.fixture(scope="module")
def perfect(pair) -> pd.DataFrame:
    return scored(handmade(pair[0], trap=False), *pair)


@pytest.fixture(scope="module")
def trapped(pair) -> pd.DataFrame:
    return scored(handmade(pair[0], trap=True), *pair)


def test_perfect_crosscoder_is_matched_latent_by_latent(pair, perfect: pd.DataFrame) -> None:
    concepts = pair[0].table
    twice = [
        concept
        for concept, kind in zip(concepts.concept, concepts.kind, strict=True)
        for _ in range(1 + (kind == "decoupled"))
    ]
    assert perfect.concept.tolist() == twice
    assert (perfect.cosine > 0.999).all()
    assert (perfect.correlation > 0.99).all()


def test_perfect_crosscoder_scores_one(perfect: pd.DataFrame) -> None:
    for rule in ("norm + strict scaling", "strict scaling"):
        scores = score(perfect, calls(perfect, THRESHOLDS, SCORING)[rule], planted=5)
        assert (scores["precision"], scores["recall"], scores["f1"]) == (1.0, 1.0, 1.0), rule
    found = statistics(perfect)
    assert [
        found[f"found_{kind}"] for kind in ("chat_only", "base_only", "weakened", "decoupled", "shared")
    ] == [5, 2, 12, 2, 3]
    assert found["splits"] == 2  # the decoupled concepts
    assert found["auc_nu_reconstruction"] == 1
    without_decoupled = statistics(perfect[perfect.kind != "decoupled"])
    # nu_error alone can't see decoupling.
    assert without_decoupled["auc_nu_error"] == 1 > found["auc_nu_error"]
    for ratio in ("nu_reconstruction", "norm_ratio"):
        assert found[f"{ratio}_slope"] == pytest.approx(1, abs=0.05)
        assert found[f"{ratio}_r2"] > 0.99
        assert found[f"{ratio}_rmse"] < 0.05


def test_norm_alone_calls_decoupled_and_the_weakest_too(pair, perfect: pd.DataFrame) -> None:
    scores = score(perfect, calls(perfect, THRESHOLDS, SCORING)["norm"], planted=5)
    ratio = pair[0].table.ratio[pair[0].table.kind == "weakened"]
    below_threshold = int((1 - ratio / 2 >= 0.9).sum())
    borderline = int((ratio < SCORING.borderline_ratio).sum())
    assert scores["called_decoupled"] == 2
    assert scores["called_borderline"] == borderline > 0
    assert scores["called_weakened"] == below_threshold - borderline
    assert scores["precision"] == 5 / (5 + 2 + below_threshold - borderline)
    assert scores["strict_precision"] == 5 / (5 + 2 + below_threshold)


def test_trap_scores_what_arithmetic_says(pair, trapped: pd.DataFrame) -> None:
    ratio = pair[0].table.ratio[pair[0].table.kind == "weakened"]
    borderline = int((ratio < SCORING.borderline_ratio).sum())
    by_rule = {
        name: score(trapped, called, planted=5)
        for name, called in calls(trapped, THRESHOLDS, SCORING).items()
    }
    norm = by_rule["norm"]  # every weakened and every decoupled concept passes for chat-only
    precision = 5 / (5 + 2 + 12 - borderline)
    assert (norm["precision"], norm["recall"]) == (precision, 1.0)
    assert norm["f1"] == pytest.approx(2 * precision / (1 + precision))
    strict = by_rule["norm + strict scaling"]  # nu_error is the ratio: latent scaling sees through it
    assert strict["called_weakened"] == 0
    assert strict["called_borderline"] == int((ratio < SCORING.strict_nu_error_below).sum())
    found = statistics(trapped)
    assert found["nu_error_slope"] == pytest.approx(1, abs=0.05)
    assert found["nu_error_r2"] > 0.99
    assert math.isnan(found["norm_ratio_slope"])  # all 0: no line


def test_latent_that_is_called_but_stands_for_nothing_is_false(perfect: pd.DataFrame) -> None:
    table = perfect.copy()
    table.loc[table.kind == "shared", ["concept", "kind", "called_kind"]] = [NONE, "none", "none"]
    called = table.kind.isin(["chat_only", "none"]).to_numpy()
    scores = score(table, called, planted=10)
    assert (scores["precision"], scores["recall"], scores["called_none"]) == (5 / 8, 0.5, 3)


def test_two_latents_of_a_concept_recall_it_once(perfect: pd.DataFrame) -> None:
    table = pd.concat([perfect, perfect[perfect.kind == "chat_only"]], ignore_index=True)
    scores = score(table, (table.kind == "chat_only").to_numpy(), planted=5)
    assert (scores["called_chat_only"], scores["recall"], scores["precision"]) == (10, 1.0, 1.0)


def test_nothing_called_has_no_precision(perfect: pd.DataFrame) -> None:
    scores = score(perfect, np.zeros(len(perfect), bool), planted=5)
    assert math.isnan(scores["precision"])
    assert (scores["recall"], scores["f1"]) == (0, 0)


def test_correlations_are_those_of_brute_force(pair, tmp_path: Path) -> None:
    concepts, activations, fired = pair
    crosscoder = handmade(concepts, trap=False)
    active = active_file(tmp_path / "active.parquet", crosscoder, activations)
    found = correlations(active, crosscoder.latents, [fired], len(concepts.table))
    shard = activations.shards[0]
    codes = crosscoder.encode(crosscoder.normalise(shard.read(0, shard.rows))).numpy()
    truth = strengths(fired, len(concepts.table), 0, shard.rows).numpy()
    for latent, concept in product((0, 6, 20, 25), (0, 6, 8, 19)):
        assert found[latent, concept].item() == pytest.approx(
            brute_force_correlation(codes[:, latent], truth[:, concept]), abs=1e-5
        )


@given(
    st.lists(
        st.tuples(st.sampled_from([-np.inf, 0.0, 0.1, 1.0, 2.0]), st.booleans()), min_size=1, max_size=40
    )
)
def test_area_under_roc_counts_pairs(latents: list[tuple[float, bool]]) -> None:
    values, positive = (np.array(column) for column in zip(*latents, strict=True))
    pairs = [(1 if p > n else 0.5 if p == n else 0) for p in values[positive] for n in values[~positive]]
    found = area_under_roc(values, positive)
    assert found == pytest.approx(np.mean(pairs), rel=1e-12) if pairs else math.isnan(found)


def test_undefined_ratio_is_the_least_evidence() -> None:
    found = fit(np.array([0.1, 0.5, 0.9, 0.7]), np.array([0.2, 1.0, 1.8, np.nan]))
    assert (found["slope"], found["r2"], found["undefined"]) == (pytest.approx(2), pytest.approx(1), 1)
    assert found["rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.5**2 + 0.9**2) / 3))


def test_one_latent_of_each_weakened_concept_is_used(perfect: pd.DataFrame) -> None:
    split = perfect[perfect.kind == "weakened"].assign(
        correlation=0.6, nu_error=9.0, latent=lambda t: t.latent + 100
    )
    found = recovery(pd.concat([perfect, split], ignore_index=True))
    assert len(found) == found.concept.nunique() == 12
    assert (found.nu_error < 2).all()


def test_leaderboard_has_the_best_first(perfect: pd.DataFrame, trapped: pd.DataFrame) -> None:
    rows = [
        {"crosscoder": name, "seed": seed, "rule": "norm"}
        | score(table, calls(table, THRESHOLDS, SCORING)["norm"], planted=5)
        for name, table in (("trapped", trapped), ("perfect", perfect))
        for seed in (0, 1)
    ]
    board = leaderboard(pd.DataFrame(rows), None)
    assert board.crosscoder.tolist() == ["perfect", "trapped"]
    assert (board.seeds == 2).all()
    assert board.f1_low.equals(board.f1_high)  # both seeds the same


def test_methods_are_compared_with_the_default_seed_by_seed() -> None:
    f1 = {
        "batchtopk": [0.80, 0.90, 0.85],
        "up": [0.85, 0.96, 0.90],
        "noisy": [0.5, 0.99, 0.95],
        "low": [0.5] * 3,
    }
    rest = dict.fromkeys(("precision", "recall", "strict_f1", *(f"called_{kind}" for kind in CALLED)), 0.5)
    rows = [
        {"crosscoder": name, "seed": seed, "rule": "norm", "f1": value} | rest
        for name, values in f1.items()
        for seed, value in enumerate(values)
    ]
    board = leaderboard(pd.DataFrame(rows[::-1]), "batchtopk").set_index(
        "crosscoder"
    )  # in any order of seeds
    # Differences .05, .06, .05: s = .0057735, and 4.3027 s / sqrt(3) = .014342.
    up = board.loc["up", ["difference", "difference_low", "difference_high"]].tolist()
    assert up == pytest.approx([0.053333, 0.038991, 0.067676], abs=1e-6)
    assert board.verdict.dropna().to_dict() == {
        "up": "better",
        "noisy": "no clear difference",
        "low": "worse",
    }
    assert math.isnan(board.difference["batchtopk"])
    with_one_seed = leaderboard(pd.DataFrame(rows)[lambda table: table.seed == 0], "batchtopk")
    assert set(with_one_seed.verdict.dropna()) == {"no clear difference"}
    assert leaderboard(pd.DataFrame(rows), None).verdict.isna().all()


def test_default_is_the_first_with_its_loss() -> None:
    assert default_of({"a": "l1", "b": "batchtopk", "c": "batchtopk"}) == "b"
    assert default_of({"a": "l1"}) is None


def test_matching_needs_direction_as_well(pair, tmp_path: Path) -> None:
    crosscoder = handmade(pair[0], trap=False)
    crosscoder.decoder[0] = crosscoder.decoder[1]  # fires with concept 0, writes concept 1
    table = scored(crosscoder, *pair)
    assert table.concept[0] == NONE
    assert table.kind[0] == "none"
