"""Tables of columns and ranges of rows agree with loops."""

from itertools import chain
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.texts.columns import joined, places, ranges, taken


class Two(NamedTuple):
    a: np.ndarray
    b: np.ndarray


TABLE = Two(np.arange(5), np.arange(10).reshape(5, 2))


@pytest.mark.parametrize(
    "rows", [np.array([3, 0]), np.array([True, False, True, False, False]), slice(2), slice(2, None)]
)
def test_rows_are_taken_from_every_column(rows: np.ndarray | slice) -> None:
    found = taken(TABLE, rows)
    assert isinstance(found, Two)
    assert np.array_equal(found.a, TABLE.a[rows]) and np.array_equal(found.b, TABLE.b[rows])


def test_joined_parts_are_the_table_again() -> None:
    found = joined([taken(TABLE, slice(2)), taken(TABLE, slice(2, None))])
    assert isinstance(found, Two) and all(map(np.array_equal, found, TABLE))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=8))
def test_ranges_and_places_are_those_of_a_loop(pairs: list[tuple[int, int]]) -> None:
    first, length = np.array(pairs, np.int64).reshape(-1, 2).T
    assert ranges(first, length).tolist() == list(
        chain.from_iterable(range(start, start + count) for start, count in pairs)
    )
    assert places(length).tolist() == list(chain.from_iterable(range(count) for _, count in pairs))
