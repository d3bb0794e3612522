"""Detection scores: balanced accuracy with its 95 % interval (docs/method.md 13)."""

import numpy as np

from crossdiff.intervals import wilson

FEWEST = 5  # with fewer contexts of a kind there is no score


def weighted_rate(
    counts: list[tuple[float, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weighted mean of independent rates and both ends of its 95 % interval, elementwise.

    ``counts`` holds (weight, successes, trials) of each rate. The intervals of the rates are combined as
    Newcombe (1998) combines them for a difference: the squared distances from the rates to their lower ends
    are added, and likewise for the upper ends. So a score of 1 from a few contexts still has an interval.
    Contexts count as independent, although contexts of one document are not quite.
    """
    total, below, above = (np.zeros(()) for _ in range(3))
    for weight, successes, trials in counts:
        rate, low, high = wilson(successes, trials)
        total = total + weight * rate
        below = below + (weight * (rate - low)) ** 2
        above = above + (weight * (high - rate)) ** 2
    return total, total - np.sqrt(below), total + np.sqrt(above)


def balanced_accuracy(
    hits: np.ndarray, positives: np.ndarray, refusals: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Balanced accuracy and both ends of its 95 % interval, elementwise: (score, low, high).

    The score is half the share of positives that are hit, plus half the share of negatives that are refused.
    ``refusals`` holds (refused, number) of each kind of negatives, and all kinds have equal weight. NaN if
    there are fewer than FEWEST positives, or negatives of any kind.
    """
    share = 0.5 / len(refusals)
    rates = [(0.5, hits, positives), *((share, right, number) for right, number in refusals)]
    scorable = np.asarray(positives) >= FEWEST
    for _, number in refusals:
        scorable = scorable & (np.asarray(number) >= FEWEST)
    score, low, high = (np.where(scorable, values, np.nan) for values in weighted_rate(rates))
    return score, low, high
