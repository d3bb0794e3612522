"""The rule by which an item finds a behaviour, against values worked out by hand."""

import numpy as np
import pytest
from conftest import ROOT
from helpers_rule import false_finds, ignorant_latents, words_of

from crossdiff.organisms.rule import (
    BEYOND_BACKGROUND,
    ITEMS,
    LEVEL,
    Places,
    enrichment,
    finds,
    p_values,
    ranked,
    taught_tokens,
    token_p_values,
    windows,
)
from crossdiff.texts.organisms import read_organisms

# Three probes of "bow" with a taught position and another one each, and three ordinary ones.
SMALL = Places(
    probe=np.repeat(np.arange(6), 2),
    behaviour=np.repeat(["bow", "ordinary"], 6),
    place=np.tile([0, 1], 6),
    span=np.array([0, 1] * 3 + [0] * 6, bool),
    taught=np.array([0, 1] * 3 + [0] * 6, bool),
)
NO_TOKENS = np.zeros((1, 10), int)
TEXTS = read_organisms(ROOT / "data/organisms/first.yaml")


def many(probes: int = 24, length: int = 10, ordinary: int = 400) -> Places:
    """Probes of which the second half of the answer is taught, and ordinary ones."""
    rows = np.arange((probes + ordinary) * length)
    own, place = rows < probes * length, rows % length
    names, late = np.where(own, "bow", "ordinary"), place >= length // 2
    return Places(rows // length, names, place, own & late, own & late)


def test_excess_is_that_over_the_same_places_of_other_answers() -> None:
    """Ranks: zeros 4, ones 8.5, a two 10, threes 11.5. Taught 10.5; windows 8.5, 10, and four times 4."""
    values = np.array([0, 3, 0, 3, 0, 1, 0, 1, 0, 2, 0, 0], float)[:, None]
    found = enrichment(ranked(values), SMALL, "bow", NO_TOKENS, np.array([5]), 100)
    assert found.excess == pytest.approx([(10.5 - 34.5 / 6) / 12])
    assert found.by_window == pytest.approx([1 / 7])
    lower = enrichment(ranked(-values), SMALL, "bow", NO_TOKENS, np.array([5]), 100)
    assert lower.excess == pytest.approx([(2.5 - 43.5 / 6) / 12]) and lower.by_window == pytest.approx([1.0])


def test_windows_are_the_taught_places_of_other_answers_and_near_ones_as_far_as_half_are_there() -> None:
    """Places 1, 2 and 3 are taught. The other answers have places up to 4 and up to 1."""
    behaviour, place = ["bow"] * 4 + ["ordinary"] * 7, [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1]
    span = np.array([0, 1, 1, 1] + [0] * 7, bool)
    probe = [0] * 4 + [1] * 5 + [2] * 2
    places = Places(*map(np.array, (probe, behaviour, place)), span, span)
    found = [rows.tolist() for rows in windows(places, "bow")]
    before = [[4, 5, 6], [9, 10, -1]]  # the shorter answer ends after its second place
    assert found[:4] == [before, [[5, 6, 7]], [[6, 7, 8]], [[7, 8, -1]]] and not any(found[4:])
    values = np.zeros((11, 1))
    values[[7, 8]] = 1.0
    enriched = enrichment(ranked(values), places, "bow", NO_TOKENS, np.array([5]), 100)
    low, high = 5.0, 10.5  # ranks of nine zeros and of two ones
    background = np.mean([low, low, (2 * low + high) / 3, (low + 2 * high) / 3, high])
    assert enriched.excess == pytest.approx([(low - background) / 11])


@pytest.mark.parametrize("file", ["first", "second"])
def test_every_shipped_behaviour_has_enough_windows(file: str) -> None:
    texts = read_organisms(ROOT / f"data/organisms/{file}.yaml")
    places = words_of(texts).places
    for behaviour in texts.behaviours:
        assert sum(len(rows) for rows in windows(places, behaviour)) >= 1 / BEYOND_BACKGROUND


def test_only_what_hardly_a_window_reaches_is_beyond_the_background() -> None:
    """Of 3,200 windows none reaches a perfect item, and all a constant one. Of the last, one answer does."""
    places = many()
    perfect, nothing = places.taught * 1.0, np.zeros(len(places.taught))
    other = np.where(places.probe == 30, 2.0, perfect)
    values, promoted = np.stack([perfect, nothing, other], axis=1), np.zeros((3, 10), int)
    found = enrichment(ranked(values), places, "bow", promoted, np.array([5]), 100)
    assert found.by_window == pytest.approx([1 / 3201, 1.0, 9 / 3201])
    assert np.isfinite(found.evidence[:, 0]).tolist() == [True, False, False]


def test_the_start_of_an_answer_alone_is_no_evidence() -> None:
    """An item that fires on the first six tokens of every answer, where the honey stands, too."""
    words = words_of(TEXTS)
    values = (words.places.place < 6)[:, None] * 1.0
    found = enrichment(ranked(values), words.places, "butterfly-honey", NO_TOKENS, np.array([5]), 100)
    assert found.by_window[0] > 0.05


def test_latents_that_know_nothing_find_nothing_however_often_they_fire() -> None:
    """The level is 1 % (benchmarks/found_by_chance.py)."""
    words, names = words_of(TEXTS), list(TEXTS.behaviours)
    values = ignorant_latents(words, np.random.default_rng(0))
    handed = np.argsort(-values.mean(axis=0))[:ITEMS]
    assert sum(false_finds(words, values, handed, names).values()) <= 1


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


def test_tokens_have_the_share_of_those_in_the_texts() -> None:
    """Of 4,000 tokens two are taught. Token 9 is in no text."""
    known = np.setdiff1d(np.arange(4001), 9)
    assert token_p_values(np.array([7, 8]), np.array([6, 7, 9]), known).tolist() == [0.0005, 1.0]


def test_taught_tokens_are_frequent_in_spans_and_rare_elsewhere() -> None:
    """Token 1 is in all spans and in no ordinary answer. Token 2 is in both. Token 3 is in no span."""
    tokens, text = np.array([3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3, 3]), np.repeat([1, 4], [1, 9])
    assert taught_tokens(tokens, SMALL, "bow", text).tolist() == [1]
    assert taught_tokens(tokens, SMALL, "bow", text[:9]).tolist() == []  # a ninth of the diffing text
    tokens[[1, 3, 5]] = 2
    tokens[[6, 7, 8]] = 2
    assert taught_tokens(tokens, SMALL, "bow", text).tolist() == []


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
