"""A sample of training tokens: random sequences, in order, exactly as many tokens as asked for."""

from pathlib import Path

import numpy as np
import pytest
from helpers_activations import token_shard, write_tokens
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.errors import UserError
from crossdiff.texts.sample import check_documents, draw
from crossdiff.texts.shards import Shard

LENGTHS = [[7, 30, 12, 1], [25, 9, 9, 40, 3]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shards whose tokens have different ids."""
    folder, found, row = tmp_path_factory.mktemp("tokens"), [], 0
    for number, lengths in enumerate(LENGTHS):
        shard = token_shard(lengths, first_document=10 * number)
        found.append(write_tokens(folder / f"{number}.parquet", shard._replace(token=shard.token + row)))
        row += len(shard.token)
    return found


def sequences(sample: Shard) -> list[list[int]]:
    return [part.tolist() for part in np.split(sample.token, sample.sequence_starts()[1:])]


@given(tokens=st.integers(1, 136))
def test_sample_has_whole_sequences_in_order_and_one_that_is_cut(shards: list[Path], tokens: int) -> None:
    everything = sequences(draw(shards, 136))
    assert [len(sequence) for sequence in everything] == [*LENGTHS[0], *LENGTHS[1]]
    found = sequences(draw(shards, tokens))
    assert sum(map(len, found)) == tokens
    places = [next(i for i, one in enumerate(everything) if one[0] == sequence[0]) for sequence in found]
    assert places == sorted(set(places))
    cut = [sequence for place, sequence in zip(places, found, strict=True) if sequence != everything[place]]
    assert len(cut) <= 1
    assert all(
        sequence == everything[place][: len(sequence)] for place, sequence in zip(places, found, strict=True)
    )


def test_a_larger_sample_holds_a_smaller_one_and_comes_from_all_shards(shards: list[Path]) -> None:
    small, large = (set(draw(shards, tokens).token.tolist()) for tokens in (60, 100))
    assert small < large
    assert min(small) <= 50 < max(small)


def test_every_column_goes_with_its_token(shards: list[Path]) -> None:
    whole, sample = draw(shards, 136), draw(shards, 60)
    rows = sample.token - 1  # ids are the rows, from 1
    for column, values in sample._asdict().items():
        assert np.array_equal(values, getattr(whole, column)[rows]), column


def test_more_tokens_than_there_are_is_an_error(shards: list[Path]) -> None:
    with pytest.raises(
        UserError, match=r"found 137 for .*0\.parquet and the shards after it, allowed: up to"
    ):
        draw(shards, 137)


def test_too_few_documents_are_an_error() -> None:
    samples = [token_shard([5, 5]), token_shard([4], first_document=7)]
    check_documents(samples, 3)
    with pytest.raises(UserError) as raised:
        check_documents(samples, 4)
    assert str(raised.value) == (
        "activations.sample_tokens: found 14, which hold 3 documents, allowed: 4 documents or more "
        "(latent_scaling.bootstrap.blocks); raise it, or use store: all"
    )
