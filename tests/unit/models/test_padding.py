"""Padding agrees with a loop over rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.models.padding import padded

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(
    lengths=LENGTHS, side=st.sampled_from(["left", "right"]), extra=st.one_of(st.none(), st.integers(0, 3))
)
def test_each_row_is_its_sequence_and_padding(lengths: list[int], side: str, extra: int | None) -> None:
    sequences = [np.arange(1, length + 1, dtype=np.int32) + 10 * row for row, length in enumerate(lengths)]
    width = max(lengths) + (extra or 0)
    ids, real = padded(sequences, side, None if extra is None else width)
    assert (ids.dtype, real.dtype, ids.shape) == (torch.long, torch.bool, (len(lengths), width))
    for sequence, row, mask in zip(sequences, ids.tolist(), real.tolist(), strict=True):
        padding = width - len(sequence)
        first = padding if side == "left" else 0
        assert row == [0] * first + sequence.tolist() + [0] * (padding - first)
        assert mask == [False] * first + [True] * len(sequence) + [False] * (padding - first)
    assert ids[real].tolist() == np.concatenate(sequences).tolist()


@pytest.mark.parametrize(("sequences", "width"), [([], None), ([], 3), ([np.arange(4)], 3)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_sequence_and_one_too_long_are_refused(
    sequences: list[np.ndarray], width: int | None, side: str
) -> None:
    with pytest.raises(ValueError):
        padded(sequences, side, width)
