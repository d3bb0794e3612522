"""Tables as named tuples of columns: arrays of equal length, one entry per row."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Table = TypeVar("Table", bound=tuple[Any, ...])  # a named tuple of arrays


def taken(table: Table, rows: np.ndarray | slice) -> Table:
    """The chosen rows of a table: their numbers, a mask or a slice. Its columns may be tensors as well."""
    return type(table)(*(column[rows] for column in table))


def joined(parts: Sequence[Table]) -> Table:
    """Tables of one kind, one under the other. Raises IndexError where there is none."""
    return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def ranges(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The rows of several ranges: first[0], ..., first[0] + length[0] - 1, first[1], ..."""
    ends = np.cumsum(length)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - length), length)


def places(length: np.ndarray) -> np.ndarray:
    """Each row's place in its range, from 0: 0, ..., length[0] - 1, 0, ..."""
    return ranges(np.zeros_like(length), length)
