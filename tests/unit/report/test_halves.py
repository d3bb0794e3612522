"""The best half of the latents is judged against random ones."""

import pandas as pd
import pytest

from crossdiff.report.halves import halves


@pytest.mark.parametrize(
    ("low", "high", "lowest", "verdict"),
    [
        (0.05, 0.3, 0.1, "So this ranking finds latents that matter more than others."),
        (
            0.05,
            0.3,
            -0.1,
            "But patching this half is not shown to lower the KL, so it need not hold what matters.",
        ),
        (-0.3, -0.1, 0.1, "So this ranking puts latents first that matter less than others."),
        (
            -0.1,
            0.3,
            0.1,
            "The interval holds 0, so this run does not show that the ranking finds what matters.",
        ),
    ],
)
def test_best_halves_are_judged_against_random_ones(
    low: float, high: float, lowest: float, verdict: str
) -> None:
    nan = float("nan")
    rows = [("best_scaling", "all", 0.2, low, high, 0.3, lowest)]
    rows += [("best_scaling", "rest", 9.0, 9.0, 9.0, 9.0, 9.0), ("best_norm", "all", 0.5, nan, nan, 0.5, 0.4)]
    rows += [("worst_norm", "all", 0.7, 0.6, 0.8, 0.7, 0.6)]
    names = ["variant", "group", "beyond_random", "beyond_random_low", "beyond_random_high"]
    names += ["reduction", "reduction_low"]
    expected = {"crosscoder": "topk", "ranking": "latent scaling", "change": -0.3, "beyond": 0.2}
    expected |= {"low": low, "high": high}
    assert halves({"topk": pd.DataFrame(rows, columns=names)}) == [expected | {"verdict": verdict}]
