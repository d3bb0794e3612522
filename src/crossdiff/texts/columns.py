"""Tables as named tuples of columns. The columns are arrays of equal length, with one entry per row."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Table = TypeVar("Table", bound=tuple[Any, ...])  # a named tuple of arrays


def taken(table: Table, rows: np.ndarray | slice) -> Table:
    """The chosen ``rows`` of a table: row numbers, a mask or a slice. The columns may also be tensors."""
    return type(table)(*(column[rows] for column in table))


def joined(parts: Sequence[Table]) -> Table:
    """Concatenate the rows of tables of one kind. Raises IndexError if there are no tables."""
    return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def ranges(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The numbers in several ranges: first[0], ..., first[0] + length[0] - 1, first[1], ..."""
    ends = np.cumsum(length)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - length), length)


def places(length: np.ndarray) -> np.ndarray:
    """The place of each row in its range: 0, ..., length[0] - 1, 0, ..., length[1] - 1, ..."""
    return ranges(np.zeros_like(length), length)
