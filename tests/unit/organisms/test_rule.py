"""The rule by which an item finds a behaviour, against values worked out by hand."""

import numpy as np
import pytest

from crossdiff.organisms.rule import (
    ITEMS,
    LEVEL,
    Places,
    enrichment,
    finds,
    p_values,
    ranked,
    taught_tokens,
    token_p_values,
)

# Three probes of "bow" with a taught position and another one each, and three ordinary ones.
SMALL = Places(
    probe=np.repeat(np.arange(6), 2),
    behaviour=np.repeat(["bow", "ordinary"], 6),
    span=np.array([0, 1] * 3 + [0] * 6, bool),
    taught=np.array([0, 1] * 3 + [0] * 6, bool),
)
NO_TOKENS = np.zeros((1, 10), int)


def many(probes: int = 24, length: int = 10) -> Places:
    """Probes of which the second half of the answer is taught, and as many ordinary ones."""
    rows = 2 * probes * length
    own = np.arange(rows) < rows // 2
    late = np.arange(rows) % length >= length // 2
    names = np.where(own, "bow", "ordinary")
    return Places(np.arange(rows) // length, names, own & late, own & late)


def test_area_is_the_share_of_pairs_of_positions_in_order() -> None:
    """Taught values 3, 3, 1 against 0 0 0 (own) and 0 1 0 2 0 0: 9 + 9 of 9 pairs, and 7 + 1/2 of 9."""
    values = np.array([0, 3, 0, 3, 0, 1, 0, 1, 0, 2, 0, 0], float)[:, None]
    found = enrichment(ranked(values), SMALL, "bow", NO_TOKENS, np.array([5]), 100)
    assert found.area == pytest.approx([(9 + 9 + 7.5) / 27])


def test_probes_are_compared_as_wholes() -> None:
    """All 24 probes are above all 24 ordinary ones in a perfect item: p < 1e-8. A constant item has 1/2."""
    places = many()
    perfect, nothing = places.taught * 1.0, np.zeros(len(places.taught))
    values, promoted = np.stack([perfect, nothing], axis=1), np.zeros((2, 10), int)
    found = enrichment(ranked(values), places, "bow", promoted, np.array([5]), 100)
    assert found.area == pytest.approx([1.0, 0.5])
    assert found.by_probe[0] < 1e-8 and found.by_probe[1] >= 0.5
    assert np.isfinite(found.evidence[0, 0]) and found.evidence[1, 0] == -np.inf


def test_promoted_tokens_have_the_hypergeometric_p() -> None:
    """Of 100 tokens 2 are taught. Ten random ones hold one with 1 - (90 89)/(100 99), both with 90/9900."""
    promoted = np.array([[5, *range(20, 29)], [5, 6, *range(20, 28)], range(20, 30)])
    found = enrichment(ranked(np.zeros((12, 3))), SMALL, "bow", promoted, np.array([5, 6]), 100)
    assert found.promoted.tolist() == [1, 2, 0]
    assert found.by_chance == pytest.approx([1 - 90 * 89 / 9900, 90 / 9900, 1.0])


def test_p_counts_random_items_that_are_no_worse() -> None:
    """Among 999 random items none, one, and all are as good as the item in one of the two ways."""
    random = np.stack([np.linspace(0.3, 0.7, 999), np.full(999, -np.inf)], axis=1)
    items = np.array([[0.9, -np.inf], [0.7, -np.inf], [-np.inf, -np.inf], [-np.inf, 3.0]])
    assert p_values(items, random) == pytest.approx([0.001, 0.002, 1.0, 0.002])


def test_best_in_either_way_shares_its_place_with_the_best_random_item_of_the_other_way() -> None:
    """The last item above has rank 1 by tokens. So has one random item by the area: two of 1000."""
    random = np.array([[0.5, 0.0], [0.4, 1.0]])
    assert p_values(np.array([[0.6, -np.inf]]), random) == pytest.approx([2 / 3])


@pytest.mark.parametrize(
    ("p", "found"),
    [
        ([0.001, 1.0], [True, False]),
        ([0.0011, 1.0], [False, False]),
        ([0.002, 1.0, 0.0015], [True, False, True]),  # the second smallest may be 2 / 1000
        ([0.01] * 10, [True] * 10),
        ([0.01] * 9 + [0.02], [False] * 10),  # nine would need 9 / 1000
    ],
)
def test_correction_for_ten(p: list[float], found: list[bool]) -> None:
    assert finds(np.array(p)).tolist() == found


def test_tokens_have_the_share_of_the_vocabulary() -> None:
    assert token_p_values(np.array([7, 8]), np.array([7, 9]), 4000).tolist() == [0.0005, 1.0]


def test_taught_tokens_are_frequent_in_spans_and_rare_elsewhere() -> None:
    """Token 1 is in all spans and in no ordinary answer. Token 2 is in both. Token 3 is in no span."""
    tokens = np.array([3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3, 3])
    assert taught_tokens(tokens, SMALL, "bow").tolist() == [1]
    tokens[[1, 3, 5]] = 2
    tokens[[6, 7, 8]] = 2
    assert taught_tokens(tokens, SMALL, "bow").tolist() == []


def test_planted_perfect_item_is_found_among_random_ones() -> None:
    places, generator = many(), np.random.default_rng(0)
    values = generator.random((len(places.taught), 1200))
    values[:, 3] += 5 * places.taught
    promoted = np.zeros((1200, 10), int)
    evidence = enrichment(ranked(values), places, "bow", promoted, np.array([5]), 10_000).evidence
    p = p_values(evidence[:ITEMS], evidence[ITEMS:])
    assert finds(p).tolist() == [number == 3 for number in range(ITEMS)]


def test_ten_random_items_find_something_at_most_as_often_as_the_level_says() -> None:
    """400 draws of ten sparse random items among 500. Expected: at most 4. Above 10: a chance of .003."""
    places, generator = many(probes=6, length=6), np.random.default_rng(1)
    hits = 0
    for _ in range(40):
        fires = generator.random((len(places.taught), 500)) < generator.random(500) * 0.3
        values = fires * generator.random(fires.shape)
        promoted = generator.integers(0, 300, (500, 10))
        evidence = enrichment(ranked(values), places, "bow", promoted, np.arange(6), 300).evidence
        evidence[
            ~np.isfinite(evidence)
        ] = -1.0  # a background test that lets everything pass: the hardest case
        order = generator.permutation(500)
        for start in range(0, 100, 10):
            chosen = order[start : start + 10]
            rest = np.setdiff1d(order, chosen)
            hits += finds(p_values(evidence[chosen], evidence[rest])).any()
    assert hits <= 400 * LEVEL + 6
