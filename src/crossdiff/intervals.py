"""Intervals of rates."""

import numpy as np

Z = 1.96  # 95 %


def wilson(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates with their 95 % intervals (Wilson 1927), elementwise; NaN without trials."""
    trials = np.where(np.asarray(trials) > 0, trials, np.nan)
    rate = successes / trials
    centre = (rate + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * np.sqrt(rate * (1 - rate) / trials + Z * Z / (4 * trials**2))
    return rate, np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)
