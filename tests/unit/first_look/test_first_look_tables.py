"""Tables of the first look against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from helpers_first_look import chat, columns, document

from crossdiff.first_look.layers import layer_table, patched_layers, suggest
from crossdiff.first_look.passes import Measured
from crossdiff.first_look.sample import Sample
from crossdiff.first_look.topics import promoted_table, topics
from crossdiff.first_look.where import contexts, strongest, where_table

SHARD = columns(document(5, 6, 5, 6, 5), chat([7], [5, 9]), document(5, 5, 6))
SAMPLE = Sample(SHARD, ["texts", "chats", "more"], np.repeat([0, 1, 2], [5, 7, 3]))
#                   5    6    5    6    5    1  7  2  1    5    9  2  5    5    6
KL = np.array([0.25, 0.5, 0.25, 0.5, 0.25, 0, 0, 0, 2.0, 1.0, 0.0, 0, 0.25, 0, 0], np.float32)


def measured(**given: np.ndarray) -> Measured:
    empty = {name: np.zeros((1, 0), np.float32) for name in Measured._fields}
    return Measured(**(empty | given))


def test_outliers_are_counted_and_left_out_of_the_difference() -> None:
    shard = columns(document(5, 6, 7), document(5, 6))
    norms = np.array([[[100, 2, 2, 2, 2]], [[90, 4, 4, 4, 50]]], np.float32)
    difference = np.array([[500, 1, 1, 2, 500]], np.float32)
    cosine = np.array([[-1, 0.5, 0.6, 0.7, -1]], np.float32)
    table = layer_table(measured(norms=norms, difference=difference, cosine=cosine), shard, 5.0)
    [row] = table.to_dict("records")
    assert (row["norm_base"], row["norm_chat"]) == (2.0, 4.0)
    assert (row["outliers_base"], row["outliers_chat"]) == (1, 2)
    assert row["outliers_first"] == 0.5  # of rows 0 and 4, the first begins a sequence
    assert row["relative_difference"] == 0.5  # the median of 1/2, 1/2, 2/2
    assert row["cosine"] == pytest.approx(0.6)


def test_layers_are_patched_evenly() -> None:
    assert patched_layers(3) == [0, 1, 2]
    found = patched_layers(31)
    assert found == list(range(0, 31, 2))


def table_of(kl: list[float], relative: list[float] | None = None) -> pd.DataFrame:
    columns = {"layer": range(len(kl)), "kl_patched": kl, "relative_difference": relative or kl}
    return pd.DataFrame(columns)


def test_layer_with_half_of_the_effect_is_suggested() -> None:
    found = suggest(table_of([0.9, 0.1, 0.2, 0.3, 0.55, 0.6, 0.7, 0.9, 1.0]))
    assert found.layer == 4  # layer 0 is not in the middle half
    assert found.reason.startswith("the base's activations there bring back 0.55 of 1 nats, the first")


def test_layer_with_most_of_the_effect_is_suggested_if_none_has_half() -> None:
    found = suggest(table_of([0, 0, 0.1, 0.3, 0.2, 0.1, 0.1, 0.1, 1.0]))
    assert found.layer == 3
    assert "bring back 0.3 of 1 nats, the most of any middle layer" in found.reason


def test_layer_that_was_not_patched_is_not_suggested() -> None:
    nan = float("nan")
    assert suggest(table_of([0.1, nan, 0.2, nan, 0.6, nan, 0.7, nan, 1.0])).layer == 4


def test_difference_decides_without_conversations() -> None:
    nan = float("nan")
    found = suggest(table_of([nan] * 9, [9, 9, 1, 2, 5, 3, 2, 9, 9]))
    assert (found.layer, "no conversation was patched" in found.reason) == (4, True)
    assert suggest(table_of([0.1, 0.2])).layer == 0  # no layer lies in the middle, so all count


def test_kl_is_averaged_by_group() -> None:
    table = where_table(KL, SAMPLE)
    assert KL.sum() == 5.0

    def rows(by: str) -> dict[str, tuple[int, float, float]]:
        part = table[table.by == by]
        values = zip(part.tokens, part.kl.round(6), part.share.round(6), strict=True)
        return dict(zip(part.value, values, strict=True))

    assert rows("data set") == {
        "chats": (7, round(3 / 7, 6), 0.6),
        "texts": (5, 0.35, 0.35),
        "more": (3, round(0.25 / 3, 6), 0.05),
    }
    assert rows("role") == {"assistant": (4, 0.75, 0.6), "text": (8, 0.25, 0.4), "user": (3, 0.0, 0.0)}
    assert rows("part") == {
        "content": (11, round(3 / 11, 6), 0.6),
        "header": (2, 1.0, 0.4),
        "turn end": (2, 0.0, 0.0),
    }
    assert rows("answer position") == {"0": (1, 2.0, 0.4), "1": (1, 1.0, 0.2)}
    assert rows("token") == {"5": (6, round(2.0 / 6, 6), 0.4)}  # the others are too rare


def test_positions_in_long_answers_share_a_row_and_stand_in_order() -> None:
    shard = columns(chat([7], list(range(10, 24))))
    table = where_table(np.ones(len(shard.token), np.float32), Sample(shard, ["a"], np.zeros(19, int)))
    part = table[table.by == "answer position"]
    assert part.value.tolist() == [*map(str, range(5)), "5 or later"]
    assert part.tokens.tolist() == [1] * 5 + [9]


def test_strongest_contexts_are_of_different_documents() -> None:
    assert strongest(KL, SHARD).tolist() == [8, 1, 12]
    assert strongest(KL, SHARD, 1).tolist() == [8]
    assert strongest(np.zeros(15), SHARD).tolist() == []


def test_equal_beginnings_are_one_context() -> None:
    shard = columns(document(5, 6, 7), document(5, 6, 8), document(9, 6))
    assert strongest(np.array([1, 4, 0, 1, 3, 2, 0, 2]), shard).tolist() == [1, 5, 7]


def test_context_stays_within_its_sequence() -> None:
    promoted = np.arange(15)[:, None] + np.arange(20)[None]
    found = contexts({"kl": KL}, measured(promoted=promoted, promoted_by=np.ones((15, 20))), SAMPLE, count=2)
    first = found.iloc[0]
    assert (first["set"], first.dataset, first["at"]) == ("kl", "chats", 3)
    assert first.tokens.tolist() == [1, 7, 2, 1, 5, 9, 2]
    assert first["values"].tolist() == [0, 0, 0, 2, 1, 0, 0]
    assert first.promoted.tolist() == [8, 9, 10, 11, 12]
    assert contexts({"kl": 0 * KL}, measured(), SAMPLE, 2).empty


def test_promoted_tokens_are_ranked_by_how_often() -> None:
    ids = np.array([[1, 2], [1, 3], [3, 1], [4, 5]])
    by = np.array([[4, 1], [2, 1], [5, 3], [-1, -2]], np.float32)
    found = promoted_table(ids, by)
    assert found.token.tolist() == [1, 3, 2]
    assert found.share.tolist() == [0.75, 0.5, 0.25]
    assert found["mean"].tolist() == [3.0, 3.0, 1.0]


def test_tokens_that_are_promoted_together_form_a_topic() -> None:
    sets = [[1, 2], [1, 2], [1, 2], [8, 9], [8, 9], [8, 9], [8, 9]]
    ids, by = np.array(sets), np.ones((7, 2), np.float32)
    table, weights = topics(ids, by)
    assert set(table.tokens[0]) == {8, 9} and set(table.tokens[1]) == {1, 2}
    assert table.share[:2].tolist() == pytest.approx([4 / 7, 3 / 7], abs=1e-3)
    assert table.topic.tolist() == list(range(1, len(table) + 1))
    assert weights.shape == (7, len(table))
    assert (weights[:3, 0] < 1e-3).all() and (weights[3:, 0] > 0.5).all()


def test_topics_do_not_depend_on_numpys_own_generator() -> None:
    draw = np.random.default_rng(0)
    ids, by = draw.integers(0, 30, (200, 5)), draw.random((200, 5)).astype(np.float32)
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        found.append(topics(ids, by)[1])
    assert np.array_equal(*found)


def test_nothing_promoted_gives_no_topic() -> None:
    table, weights = topics(np.array([[1, 2]] * 4), np.zeros((4, 2), np.float32))
    assert table.empty and weights.shape == (4, 0)
    assert promoted_table(np.array([[1, 2]]), np.zeros((1, 2), np.float32)).empty
