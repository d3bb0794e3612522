"""Intervals agree with tables and formulas, and the bootstrap with draws one by one."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdiff.intervals import (
    central_95,
    draw_counts,
    draw_means,
    normal_mean,
    share_mean,
    student_mean,
    wilson,
)

# Quantiles as textbooks print them, for 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@pytest.mark.parametrize(("freedom", "t"), enumerate(T_975, 1))
def test_students_interval_is_that_of_the_printed_table(freedom: int, t: float) -> None:
    values = np.random.default_rng(freedom).normal(size=freedom + 1)
    mean, low, high = student_mean(values.tolist())
    half = t * values.std(ddof=1) / math.sqrt(freedom + 1)
    assert mean == values.mean()
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=3e-4)  # the table has three decimals


def test_students_interval_of_one_or_undefined_values_is_undefined() -> None:
    assert [math.isnan(value) for value in student_mean([1.0])] == [False, True, True]
    assert all(math.isnan(value) for value in student_mean([1.0, math.nan]))


def test_interval_of_shares_by_hand() -> None:
    # s = .03, so half = 4.303 * .03 / sqrt(3) = .07453 and q = .005555 / (.97 * .03) = .1909.
    # The ends are (.97 + .09545 -+ sqrt(.005555 + .00911)) / 1.1909. Student's t would reach 1.0445.
    assert share_mean([1.0, 0.97, 0.94]) == pytest.approx((0.97, 0.79299, 0.99637), abs=1e-4)
    # By symmetry, that of the shares that are left.
    assert share_mean([0.0, 0.03, 0.06]) == pytest.approx((0.03, 0.00363, 0.20701), abs=1e-4)
    # The furthest apart that two shares can be: q = (12.706 / 2)^2 / (1 / 4) = 161.45, so
    # the ends are (.5 + 80.72 -+ sqrt(40.36 + 6516.5)) / 162.45.
    assert share_mean([0.0, 1.0]) == pytest.approx((0.5, 0.0015, 0.9985), abs=1e-4)


def test_interval_of_equal_shares_is_their_value_and_one_share_has_none() -> None:
    assert share_mean([1.0, 1.0, 1.0]) == (1, 1, 1)
    assert share_mean([0.0, 0.0]) == (0, 0, 0)
    assert share_mean([1.0, 1.0 - 2**-53])[2] == 1
    for values in ([1.0], [0.5, math.nan]):
        assert [math.isnan(end) for end in share_mean(values)[1:]] == [True, True]
    assert share_mean([0.3])[0] == 0.3
    with pytest.raises(ValueError, match="within 0 and 1"):
        share_mean([0.5, 1.2])


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_interval_of_shares_stays_within_0_and_1_and_holds_the_mean(values: list[float]) -> None:
    mean, low, high = share_mean(values)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1


def test_interval_of_shares_is_students_where_no_bound_is_near() -> None:
    values = [0.5, 0.501, 0.499]
    assert share_mean(values) == pytest.approx(student_mean(values), abs=2e-6)


def test_normal_interval_is_of_each_column() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    half = 1.96 * np.sqrt(values.var(axis=0, ddof=1) / 50)
    np.testing.assert_allclose(
        normal_mean(values), [values.mean(axis=0), values.mean(axis=0) - half, values.mean(axis=0) + half]
    )
    assert np.isnan(normal_mean(values[:0])).all()
    assert np.isnan(normal_mean(values[:1])).tolist() == [[False] * 3, [True] * 3, [True] * 3]


def test_draws_hold_as_many_units_as_there_are() -> None:
    counts = draw_counts(7, 500, seed=3)
    assert counts.shape == (500, 7) and (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, draw_counts(7, 500, seed=3)) and not np.array_equal(
        counts, draw_counts(7, 500, seed=4)
    )
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.2)


@given(st.lists(st.floats(-10, 10), max_size=9), st.integers(0, 3))
def test_means_of_draws_are_means_of_what_is_drawn(values: list[float], seed: int) -> None:
    values, generator = np.array(values), np.random.default_rng(seed)
    found = draw_means(values, 20, np.random.default_rng(seed))
    expected = [
        values[generator.integers(0, len(values), len(values))].mean() if len(values) else np.nan
        for _ in range(20)
    ]
    np.testing.assert_array_equal(found, expected)


def test_both_ways_of_drawing_have_the_same_spread() -> None:
    values = np.random.default_rng(0).normal(size=40)
    by_counts = draw_counts(40, 4000, seed=1) @ values / 40
    by_values = draw_means(values, 4000, np.random.default_rng(2))
    np.testing.assert_allclose(central_95(by_counts), central_95(by_values), atol=0.02)


def test_central_95_leaves_out_a_fortieth_on_either_side() -> None:
    samples = np.random.default_rng(0).permuted(np.tile(np.arange(1001.0)[:, None], 2), axis=0)
    np.testing.assert_allclose(central_95(samples), [[25, 25], [975, 975]])
    samples[3, 1] = np.nan
    assert np.isnan(central_95(samples)).tolist() == [[False, True]] * 2


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("intervals", "scipy sklearn torch pandas"), ("planted.scoring", "scipy sklearn")],
)
def test_what_takes_a_second_to_import_waits_until_it_is_used(module: str, unwanted: str) -> None:
    code = (
        f"import sys, crossdiff.{module}; print([name for name in {unwanted.split()} if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_interval_has_the_known_values(successes: int, trials: int, low: float, high: float) -> None:
    """The last two values are from Newcombe (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx((successes / trials, low, high), abs=5e-5)
