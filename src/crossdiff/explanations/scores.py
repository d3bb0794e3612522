"""Detection scores: balanced accuracy with an interval (docs/method.md 13)."""

import numpy as np

from crossdiff.intervals import wilson

FEWEST = 5  # contexts of each kind below which nothing is said


def weighted_rate(
    counts: list[tuple[float, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weighted mean of independent rates with its 95 % interval, elementwise. ``counts``: (weight, successes, trials) of each.

    The intervals of the rates are put together as Newcombe (1998) does for a difference: squares of what lies to one side are added. So
    a score of 1 from a few contexts still has a width. Contexts are taken for independent, which those of one document are not quite.
    """
    total, below, above = 0.0, 0.0, 0.0
    for weight, successes, trials in counts:
        rate, low, high = wilson(successes, trials)
        total = total + weight * rate
        below = below + (weight * (rate - low)) ** 2
        above = above + (weight * (high - rate)) ** 2
    return total, total - np.sqrt(below), total + np.sqrt(above)


def balanced_accuracy(
    hits: np.ndarray, positives: np.ndarray, refusals: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, low, high): half the share of positives that are hit, half that of negatives that are refused, each kind of negative alike.

    ``refusals``: (refused, number) of each kind of negative. NaN where there are fewer than FEWEST of anything.
    """
    share = 0.5 / len(refusals)
    found = weighted_rate([(0.5, hits, positives), *((share, right, number) for right, number in refusals)])
    scorable = np.asarray(positives) >= FEWEST
    for _, number in refusals:
        scorable = scorable & (np.asarray(number) >= FEWEST)
    return tuple(np.where(scorable, values, np.nan) for values in found)
