"""95 % intervals: of rates (Wilson), of means (normal, Student's t, of shares), and the percentile bootstrap.

A bootstrap has three steps:
1. Draw units with replacement (``draw_counts`` or ``draw_means``).
2. Compute the statistic on every draw.
3. Take the interval that holds the central 95 % of these values (``central_95``).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

ENDS = (0.025, 0.975)  # quantiles that enclose the central 95 %
Z = 1.96  # the quantile ENDS[1] of the standard normal distribution
RESAMPLES = 1000  # number of draws in a bootstrap


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rates ``successes / trials`` and both ends of their Wilson score intervals (Wilson 1927).

    Works elementwise, also on single numbers. All three are NaN where there are no trials.
    """
    n = np.where(np.asarray(trials) > 0, trials, np.nan)
    rate = np.asarray(successes) / n
    centre = (rate + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n**2))
    return rate, np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def normal_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over axis 0 and both ends of their intervals, mean +- Z sqrt(var / n), for independent values.

    ``values`` has shape (n, ...), each result has shape (...). All three are NaN if a value is NaN or if n is
    0. If n is 1, the ends are NaN.
    """
    count, undefined = len(values), np.full(values.shape[1:], np.nan)
    mean = values.mean(axis=0) if count else undefined
    half = Z * np.sqrt(values.var(axis=0, ddof=1) / count) if count > 1 else undefined
    return mean, mean - half, mean + half


def student_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean and both ends of its interval (Student's t), for few values.

    The ends are NaN for fewer than two values, and if a value is not finite.
    """
    from scipy import stats  # takes 0.7 s to import; the other intervals do without

    mean, count = float(np.mean(values)), len(values)
    if count < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(ENDS[1], count - 1) * np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def share_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean of few shares and both ends of its interval, which stays within 0 and 1.

    Every mu counts whose distance from the mean m is at most t sqrt(phi mu (1 - mu) / n). t is Student's
    quantile for n - 1 degrees of freedom, and phi = s^2 / (m (1 - m)) for the variance s^2 of the values.
    This is Wilson's score interval with the effective number of trials n / phi, as surveys use it whose
    answers come in clusters (Kott and Carr 1997; Dean and Pagano 2015). Here the values are the clusters.
    Near 1/2 and for a small s it is ``student_mean``. Shares of 0 and 1 need no correction; a logit's would.

    Equal values show no spread, and both ends are the mean. The ends are NaN for fewer than two values, and
    if a value is not finite. Raises ValueError for a value outside of 0 to 1.
    """
    if any(value < 0 or value > 1 for value in values):
        raise ValueError(f"shares lie within 0 and 1, got {list(values)}")
    mean, low, high = student_mean(values)
    half, largest = (high - low) / 2, mean * (1 - mean)  # the largest variance with this mean
    if not half > 0:
        return mean, low, high
    # half^2 = t^2 s^2 / n, so this is t^2 phi / n. The ends solve (mean - mu)^2 = q mu (1 - mu).
    q = half**2 / largest if largest else 0.0  # a mean may round to 1
    centre, reach = mean + q / 2, math.sqrt(half**2 + q**2 / 4)
    return mean, max(0.0, (centre - reach) / (1 + q)), min(1.0, (centre + reach) / (1 + q))


def draw_counts(units: int, draws: int, seed: int) -> np.ndarray:
    """Draw ``units`` units with replacement, ``draws`` times.

    Returns how often each unit is in each draw, (draws, units) int64. With (units, ...) ``sums`` of each
    unit, ``counts @ sums`` gives the sums of every draw. The same seed gives the same draws, so several
    statistics of the same units can be compared on the same draws. Meant for up to some thousand units,
    because the table holds draws x units numbers.
    """
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws)


def draw_means(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw n of the ``values`` (n,) with replacement, ``draws`` times.

    Returns the mean of every draw, (draws,). The means are NaN if n is 0. Works for any n, because only one
    draw is in memory at a time. Each call takes new random numbers from ``generator``, so the draws from
    different sets are independent.
    """
    count = len(values)
    if not count:
        return np.full(draws, np.nan)
    return np.array([values[generator.integers(0, count, count)].mean() for _ in range(draws)])


def central_95(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval that holds the central 95 % of ``samples`` along axis 0.

    ``samples`` has shape (draws, ...), each end has shape (...). Both are NaN where a sample is NaN.
    """
    low, high = np.quantile(samples, ENDS, axis=0)
    return low, high
