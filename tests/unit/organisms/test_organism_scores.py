"""Items of methods judged against random ones, and results summed up over organisms."""

import numpy as np
import pandas as pd
import pytest

from crossdiff.errors import UserError
from crossdiff.intervals import share_mean, wilson
from crossdiff.organisms.rule import Places, ranked
from crossdiff.organisms.scoring import Population, score_items, summarise

LENGTH, PROBES = 6, [30, 30, 500]
ROWS = sum(PROBES) * LENGTH
NAMES = np.repeat(["bow", "nod", "ordinary"], np.array(PROBES) * LENGTH)
LATE = np.arange(ROWS) % LENGTH >= LENGTH // 2
SPAN = (NAMES != "ordinary") & LATE
PLACES = Places(np.arange(ROWS) // LENGTH, NAMES, np.arange(ROWS) % LENGTH, SPAN, SPAN)
TAUGHT = {"bow": np.array([5, 6]), "nod": np.array([7])}


def handed(method: str, kind: str, numbers: list[int], crosscoder: str = "", why: str = "") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": method,
            "crosscoder": crosscoder,
            "seed": 0,
            "kind": kind,
            "rank": range(1, len(numbers) + 1),
            "item": numbers,
            "not_scored": why,
        }
    )


def population(count: int, ids: np.ndarray, planted: int) -> Population:
    """Random items, of which the one at row ``planted`` fires exactly where bow is taught."""
    values = np.random.default_rng(0).random((ROWS, count))
    values[:, planted] = (NAMES == "bow") & LATE
    return Population(ids, ranked(values), np.zeros((count, 10), int))


@pytest.fixture(scope="module")
def scored() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Latents 0 to 1197, of which 3 is planted. Of 1500 directions the first two are handed in."""
    directions = np.concatenate([[0, 1], -1 - np.arange(1498)])
    populations = {
        ("latent", "l1", 0): population(1200, np.arange(1200), 3),
        ("latent", "few", 0): population(50, np.arange(50), 3),
        ("direction", "", 0): population(1500, directions, 1),
    }
    items = pd.concat(
        [
            handed("norm", "latent", [9, 8, 3], "l1"),
            handed("random latents", "latent", [9, 8], "l1"),
            handed("norm", "latent", [9, 8, 3], "few"),
            handed("scaling", "latent", [-1], "few", "no base decoder"),
            handed("difference", "direction", [0, 1]),
            handed("diff mining", "token", [1, 2, 6]),
            handed("both", "latent", [9, 0, 3, 1], "l1").assign(kind=["latent", "direction"] * 2),
        ]
    )
    return score_items(items, populations, PLACES, TAUGHT, 10_000, np.arange(5000))


def test_planted_latent_and_direction_are_found_at_their_rank(scored: tuple) -> None:
    table = scored[0][scored[0].behaviour == "bow"].set_index(["method", "crosscoder"])
    assert table["rank"]["norm", "l1"] == 3 and table["rank"]["difference", ""] == 2
    assert table.loc[("norm", "l1"), ["found_at_1", "found_at_5", "found_at_10"]].tolist() == [
        False,
        True,
        True,
    ]
    assert table.smallest_p["norm", "l1"] == pytest.approx(1 / 1198)  # three were handed in
    assert table.windows["norm", "l1"] == 5 * 530 and np.isnan(table.windows["diff mining", ""])
    assert table.random_items["norm", "l1"] == 1197 and table.random_items["difference", ""] == 1498
    assert table["finds"]["random latents", "l1"] == 0


def test_items_of_two_kinds_are_each_ranked_among_their_own(scored: tuple) -> None:
    judged = scored[1][(scored[1].method == "both") & (scored[1].behaviour == "bow")]
    assert judged["finds"].tolist() == [False, False, True, True]
    assert judged.p.tolist()[2:] == pytest.approx([1 / 1199, 1 / 1499])  # two latents were handed in
    [row] = scored[0][(scored[0].method == "both") & (scored[0].behaviour == "bow")].to_dict("records")
    assert (row["random_items"], row["windows"], row["rank"], row["finds"]) == (1198, 5 * 530, 3, 2)


def test_taught_token_has_the_share_of_those_in_the_texts(scored: tuple) -> None:
    table = scored[0].set_index(["method", "behaviour"])
    assert table.smallest_p["diff mining", "bow"] == pytest.approx(2 / 5000)
    assert table["rank"]["diff mining", "bow"] == 3
    assert not table.found_at_10["diff mining", "nod"]


def test_method_that_cannot_be_scored_says_why(scored: tuple) -> None:
    table = scored[0][scored[0].crosscoder == "few"].set_index(["method", "behaviour"])
    assert table.not_scored["norm", "bow"] == "47 random items, allowed: 333 or more for 3 items"
    assert table.not_scored["scaling", "nod"] == "no base decoder"
    assert table.found_at_10.isna().all()


def test_every_scored_item_has_a_row(scored: tuple) -> None:
    judged = scored[1]
    assert len(judged) == 2 * (3 + 2 + 2 + 3 + 4)  # behaviours; items of five methods
    [hit] = judged[judged["finds"] & (judged.method == "norm")].to_dict("records")
    assert (hit["behaviour"], hit["rank"], hit["kind"], hit["item"]) == ("bow", 3, "latent", 3)
    # All taught positions rank above all others, on average by half of the positions.
    assert hit["excess"] == pytest.approx(0.5) and hit["by_window"] == pytest.approx(1 / (1 + 5 * 530))
    assert hit["taught"] == 0 and list(hit["promoted"]) == [0] * 10
    tokens = judged[(judged.kind == "token") & (judged.behaviour == "bow")]
    assert tokens.promoted.tolist() == [[1], [2], [6]] and tokens.taught.tolist() == [0, 0, 1]


def results(method: str, found: list[bool], nulls: list[bool]) -> pd.DataFrame:
    hits = found + nulls
    table = pd.DataFrame({"method": method, "crosscoder": "", "not_scored": "", "found_at_10": hits})
    is_null = [False] * len(found) + [True] * len(nulls)
    table = table.assign(found_at_1=False, found_at_5=hits, is_null=is_null, seed=0)
    table["organism"] = [f"organism {number}" for number in range(len(hits))]
    return table.assign(in_text=[number % 2 == 0 for number in range(len(hits))])


def test_summary_counts_finds_and_false_finds() -> None:
    """3 of 4 have the Wilson interval .301 to .954."""
    one = results("one", [True, False, False, False], [False] * 16)
    one = one.astype({"found_at_10": object})
    one.loc[3, ["not_scored", "found_at_10"]] = ["47 random items", None]
    two = results("two", [True, True, True, False], [True] + [False] * 15)
    table = summarise(pd.concat([one, two], ignore_index=True))
    assert table.method.tolist() == ["two", "one"]
    counts = ["organisms_in_text", "found_in_text", "false_finds_in_text"]
    assert table.loc[0, counts].tolist() == [2, 2, 1]
    assert table.organisms.tolist() == [4, 3] and table.organisms_not_scored.tolist() == [0, 1]
    assert table.loc[
        0, ["organisms", "found_at_1", "found_at_10", "false_finds", "tests_on_nulls"]
    ].tolist() == [
        4,
        0,
        3,
        1,
        16,
    ]
    assert table.loc[0, ["share_at_10", "low_at_10", "high_at_10"]].tolist() == pytest.approx(
        [0.75, 0.3006, 0.9544], abs=1e-4
    )


def test_seeds_of_one_organism_are_no_further_organisms() -> None:
    """2 of 4 and 3 of 4 were found: 2.5 of 4 organisms, whatever the number of seeds."""
    seeds = [
        results("one", found, []).assign(seed=seed)
        for seed, found in enumerate(([True, True, False, False], [True, True, True, False]))
    ]
    [row] = summarise(pd.concat(seeds, ignore_index=True)).to_dict("records")
    assert (row["organisms"], row["found_at_10"], row["share_at_10"]) == (8, 5, 0.625)
    assert [row["low_at_10"], row["high_at_10"]] == pytest.approx(wilson(2.5, 4)[1:])
    low, high = row["low_of_seeds_at_10"], row["high_of_seeds_at_10"]
    assert [low, high] == pytest.approx(share_mean([0.5, 0.75])[1:]) and 0 < low < 0.5 < high < 1
    [alone] = summarise(seeds[0]).to_dict("records")
    assert np.isnan(alone["low_of_seeds_at_10"]) and alone["low_at_10"] == pytest.approx(wilson(2, 4)[1])


def test_methods_that_cannot_be_scored_stay_with_their_reason() -> None:
    """If none can be scored, it is an error."""
    one = results("one", [True], [])
    none = results("none", [False], []).assign(not_scored="no base decoder", found_at_10=None)
    table = summarise(pd.concat([one, none], ignore_index=True)).set_index("method")
    assert (table.organisms["none"], table.not_scored["none"]) == (0, "no base decoder")
    with pytest.raises(
        UserError, match=r"found no method whose items the rule can score \(no base decoder\)"
    ):
        summarise(none)
