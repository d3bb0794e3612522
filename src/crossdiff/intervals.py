"""95 % intervals: of a rate (Wilson), of a mean (normal, Student's t), and the percentile bootstrap.

A bootstrap is three steps. Draw units with replacement (``draw_counts`` or ``draw_means``), compute the statistic on every draw, and take
the interval that holds its central 95 % (``central_95``).
"""

import math
from collections.abc import Sequence

import numpy as np

ENDS = (0.025, 0.975)  # quantiles that enclose the central 95 %
Z = 1.96  # of the standard normal distribution, at ENDS[1]
RESAMPLES = 1000  # draws of a bootstrap


def wilson(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates with their intervals (Wilson 1927), elementwise; NaN without trials."""
    trials = np.where(np.asarray(trials) > 0, trials, np.nan)
    rate = successes / trials
    centre = (rate + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * np.sqrt(rate * (1 - rate) / trials + Z * Z / (4 * trials**2))
    return rate, np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def normal_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over axis 0 with their intervals: mean +- Z sqrt(var / n), values taken for independent.

    An undefined value makes all three NaN. So does an empty axis; one value has a mean and no interval.
    """
    count, undefined = len(values), np.full(values.shape[1:], np.nan)
    mean = values.mean(axis=0) if count else undefined
    half = Z * np.sqrt(values.var(axis=0, ddof=1) / count) if count > 1 else undefined
    return mean, mean - half, mean + half


def student_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean with its interval (Student's t): for few values. The interval is NaN for one value or where a value is undefined."""
    from scipy import stats  # 0.7 s, which whoever needs another interval does not pay

    mean, count = float(np.mean(values)), len(values)
    if count < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(ENDS[1], count - 1) * np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def draw_counts(units: int, draws: int, seed: int) -> np.ndarray:
    """(draws, units) int64: how often each unit is in each draw, of as many units as there are, with replacement.

    ``counts @ sums``, with (units, ...) sums of each unit, are the sums of every draw. The same seed gives the same draws, so that
    statistics of the same units are compared on the same draws. For up to some thousand units: of more, the table is large.
    """
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws)


def draw_means(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """(draws,): the mean of every draw, of as many ``values`` (n,) as there are, with replacement; NaN where there are none.

    For any number of values: one draw is held at a time. Each call draws anew from ``generator``, so samples of different sets are
    independent of one another.
    """
    count = len(values)
    if not count:
        return np.full(draws, np.nan)
    return np.array([values[generator.integers(0, count, count)].mean() for _ in range(draws)])


def central_95(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval that holds the central 95 % of axis 0; NaN where a sample is NaN."""
    low, high = np.quantile(samples, ENDS, axis=0)
    return low, high
