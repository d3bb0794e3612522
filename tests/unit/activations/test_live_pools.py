"""Pools of activations that are computed when they are needed hold what caches hold, in their own order."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_live import LAYER, SKIP_FIRST, LivePair, live_pair

from crossdiff.activations.live import LiveActivations
from crossdiff.errors import UserError

LENGTHS = [[7, 30, 12, 1, 25, 9, 9, 40, 3], [22, 17, 8, 31, 14, 6, 19]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LivePair:
    return live_pair(tmp_path_factory.mktemp("pair"), LENGTHS)


def live(pair: LivePair, batch_tokens: int = 64) -> LiveActivations:
    return LiveActivations(pair.models, pair.shards, pair.cached.summary, batch_tokens, CPU)


def stored(pair: LivePair) -> torch.Tensor:
    """All rows of the caches, (rows, model, d_model)."""
    return torch.cat([shard.read(0, shard.rows) for shard in pair.cached.shards])


def kept(pair: LivePair) -> np.ndarray:
    return np.concatenate([pair.cached.summary.kept(shard) for shard in pair.cached.shards])


@pytest.mark.parametrize("size", [39, 60, 10_000])
def test_an_epochs_pools_hold_every_sequence_once_and_are_small(pair: LivePair, size: int) -> None:
    activations = live(pair)
    epochs: list[list[list[int]]] = [[]]
    for sequences, is_rest in activations.sequences(size):
        assert activations.late[sequences].sum() <= size
        epochs[-1].append(sequences.tolist())
        if is_rest:
            if len(epochs) == 2:
                break
            epochs.append([])
    for pools in epochs:
        assert sorted(itertools.chain(*pools)) == list(range(sum(map(len, LENGTHS))))
    assert epochs[0] != epochs[1]


def test_a_pool_holds_at_most_a_fifth_of_the_tokens_that_may_count(pair: LivePair) -> None:
    activations = live(pair)
    lengths = np.array(list(itertools.chain(*LENGTHS)))
    assert activations.tokens == (lengths - SKIP_FIRST).sum() == 237
    assert (activations.size(500_000), activations.size(40)) == (47, 40)


@pytest.mark.parametrize("batch_tokens", [16, 64, 4096])
def test_pools_hold_what_caches_hold(pair: LivePair, batch_tokens: int) -> None:
    activations, reference = live(pair, batch_tokens), stored(pair)
    assert 0 < (~kept(pair)).sum() - sum(map(len, LENGTHS)) < 60  # the norm leaves out some
    seen: list[int] = []
    for pool in activations.pools(500_000):
        torch.testing.assert_close(pool.activations, reference[pool.rows], rtol=2**-7, atol=1e-6)
        assert sorted(pool.order.tolist()) == list(range(len(pool.rows)))
        seen += pool.rows.tolist()
        if pool.is_rest:
            break
    assert sorted(seen) == np.flatnonzero(kept(pair)).tolist()


def test_a_pools_number_alone_decides_what_it_holds(pair: LivePair) -> None:
    straight = [
        (pool.rows.copy(), pool.order, pool.activations.clone())
        for pool in itertools.islice(live(pair).pools(45), 14)
    ]
    for first in (3, 11):
        pool = next(live(pair).pools(45, first))
        rows, order, values = straight[first]
        assert np.array_equal(pool.rows, rows) and torch.equal(pool.order, order)
        assert torch.equal(pool.activations, values)


def test_batches_go_on_from_any_of_them_and_leave_out_a_rest(pair: LivePair) -> None:
    pool = next(live(pair).pools(500_000))
    whole = list(pool.batches(16, 0))
    assert [len(batch) for batch in whole] == [16] * (len(pool.rows) // 16)
    assert torch.equal(torch.cat(whole), pool.activations[pool.order[: 16 * len(whole)]])
    for first in range(len(whole) + 1):
        rest = list(pool.batches(16, first))
        assert len(rest) == len(whole) - first
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_mean_and_scale_of_a_small_sample_are_measured_anew(pair: LivePair) -> None:
    summary = pair.cached.summary
    small = summary._replace(tokens=20, mean=torch.zeros(summary_shape := (2, pair.cached.d_model)).tolist())
    activations = LiveActivations(pair.models, pair.shards, small, 64, CPU)
    activations.measure(10_000)
    found = activations.summary
    assert torch.tensor(found.mean).shape == summary_shape
    torch.testing.assert_close(torch.tensor(found.mean), torch.tensor(summary.mean), rtol=1e-3, atol=1e-3)
    assert found.rms == pytest.approx(summary.rms, rel=1e-3)
    assert found.median_norm == small.median_norm and found.tokens == 20


def test_mean_and_scale_are_of_the_first_sequences_of_an_epoch(pair: LivePair) -> None:
    small = pair.cached.summary._replace(tokens=20)
    activations = LiveActivations(pair.models, pair.shards, small, 64, CPU)
    sequences, taken = next(activations.sequences(10_000))[0], 0
    rows: list[int] = []
    while taken < 50:
        first, length = (part[sequences[0]] for part in (activations.starts, activations.lengths))
        rows += range(first, first + length)
        taken, sequences = taken + length - SKIP_FIRST, sequences[1:]
    read = [row for row in rows if kept(pair)[row]]
    activations.measure(50)
    expected = stored(pair)[read].double().mean(dim=0)
    torch.testing.assert_close(torch.tensor(activations.summary.mean).double(), expected, rtol=0, atol=1e-3)


def test_mean_and_scale_of_a_sample_that_suffices_stay(pair: LivePair) -> None:
    activations = live(pair)
    for tokens in (activations.summary.tokens, 10_000):
        activations.measure(tokens)
        assert activations.summary is pair.cached.summary


def test_a_sequence_as_long_as_a_pool_is_refused(pair: LivePair) -> None:
    with pytest.raises(UserError) as raised:
        next(live(pair).sequences(38))
    assert str(raised.value) == (
        "activations.store: none: a pool has 38 tokens, and a sequence has 39; "
        "raise the tokens of datasets or buffer_tokens, lower tokens.context, or use store: all"
    )


def test_infinite_activations_are_refused(tmp_path: Path) -> None:
    pair = live_pair(tmp_path, LENGTHS)
    with torch.no_grad():
        pair.models[1].get_input_embeddings().weight[5] = torch.inf
    with pytest.raises(UserError, match=rf"training token [\d,]+ has NaN or infinite .* at layer {LAYER}$"):
        for _ in itertools.islice(live(pair).pools(500_000), 6):
            pass
