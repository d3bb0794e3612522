"""Firings are exactly the active entries of the dense codes, in whole sequences, however the file is cut."""

from pathlib import Path

import numpy as np
import pytest
from helpers_activations import random_activations, random_crosscoder, write_pair
from helpers_codes import active_file

from crossdiff.activations import pairs
from crossdiff.activations.pairs import PairedActivations, summarise
from crossdiff.config import Activations
from crossdiff.crosscoders import active_file as module
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents.firings import Firings, read_firings

WIDTH, LATENTS = 4, 6
LENGTHS = ([7, 1, 12, 3, 9], [5, 20, 2])


@pytest.fixture
def crosscoder() -> Crosscoder:
    """Thresholded, with a latent that never fires (4)."""
    crosscoder = random_crosscoder(WIDTH, LATENTS, seed=3).requires_grad_(False)
    crosscoder.threshold.fill_(1.0)
    crosscoder.encoder_bias[4] = -100
    return crosscoder


def cached(folder: Path, **settings) -> PairedActivations:
    shards = [
        write_pair(folder, f"{number:04d}", random_activations(sum(lengths), WIDTH, seed=number), lengths)
        for number, lengths in enumerate(LENGTHS)
    ]
    return PairedActivations(shards, summarise(shards, Activations(**settings)))


def firings(
    folder: Path, crosscoder: Crosscoder, activations: PairedActivations, tokens: int | None = None
) -> list[Firings]:
    path = active_file(folder / "active.parquet", crosscoder, activations)
    return list(read_firings(path, activations.token_shards, tokens))


def dense(
    crosscoder: Crosscoder, activations: PairedActivations, tokens: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per shard: the rows that are read, and the codes (rows, latents), which are zero for all other rows."""
    found = []
    for shard in activations.shards:
        rows = np.flatnonzero(shard.tokens.position >= activations.summary.skip_first)
        stop = shard.rows if tokens is None else rows[: -(-tokens // len(activations.shards))][-1] + 1
        while stop < shard.rows and shard.tokens.position[stop]:  # on to the end of the sequence
            stop += 1
        rows = rows[rows < stop]
        codes = crosscoder.encode(crosscoder.normalise(shard.read(0, shard.rows))).numpy()
        read = np.zeros_like(codes)
        read[rows] = codes[rows]
        found.append((rows, read))
    return found


def assert_ordered(found: Firings) -> None:
    assert found.latent.dtype == np.int32
    place = found.latent * 1000 + found.row
    assert (np.diff(place) > 0).all()
    assert (np.diff(found.rows) > 0).all()
    assert np.isin(found.row, found.rows).all()


@pytest.mark.parametrize(
    "at_once", [1, 15, 10**6], ids=["sequence by sequence", "a few sequences", "shard by shard"]
)
@pytest.mark.parametrize(("chunk", "skip_first"), [(2048, 0), (4, 0), (4, 2)])
@pytest.mark.parametrize("tokens", [None, 9, 23, 1000])
def test_firings_are_the_active_entries_of_the_dense_codes(
    tmp_path: Path,
    crosscoder: Crosscoder,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    chunk: int,
    skip_first: int,
    tokens: int | None,
) -> None:
    activations = cached(tmp_path, skip_first=skip_first)
    monkeypatch.setattr(pairs, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", at_once)
    parts = firings(tmp_path, crosscoder, activations, tokens)
    for number, (rows, codes) in enumerate(dense(crosscoder, activations, tokens)):
        mine = [part for part in parts if part.shard == number]
        found = np.zeros_like(codes)
        for part in mine:
            assert_ordered(part)
            found[part.row, part.latent] += part.value
        np.testing.assert_allclose(found, codes, rtol=1e-5)
        assert np.concatenate([part.rows for part in mine]).tolist() == rows.tolist()
    assert [part.shard for part in parts] == sorted(part.shard for part in parts)
    assert sum(len(part.value) for part in parts) > 0


@pytest.mark.parametrize("tokens", [None, 16])
def test_no_sequence_is_cut(
    tmp_path: Path, crosscoder: Crosscoder, monkeypatch: pytest.MonkeyPatch, tokens: int | None
) -> None:
    activations = cached(tmp_path)
    monkeypatch.setattr(pairs, "CHUNK_ROWS", 4)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 1)
    parts = firings(tmp_path, crosscoder, activations, tokens)
    assert len(parts) > len(LENGTHS)
    for part in parts:
        position = np.append(activations.shards[part.shard].tokens.position, 0)
        assert position[part.rows[0]] == position[part.rows[-1] + 1] == 0


def test_a_limit_leaves_no_shard_out(tmp_path: Path, crosscoder: Crosscoder) -> None:
    """Shards come data set by data set: the first tokens of all would be those of one data set."""
    parts = firings(tmp_path, crosscoder, cached(tmp_path), tokens=10)
    assert [(part.shard, len(part.rows)) for part in parts] == [(0, 7), (1, 5)]


def test_shards_without_kept_tokens_or_firings_do_no_harm(tmp_path: Path, crosscoder: Crosscoder) -> None:
    crosscoder.encoder_bias.clamp_max_(0)
    silent = crosscoder.mean.expand(5, 2, WIDTH)  # zero on the crosscoder's scale: only biases are left
    shards = [
        write_pair(tmp_path, "short", random_activations(2, WIDTH)),
        write_pair(tmp_path, "silent", silent),
        write_pair(tmp_path, "loud", random_activations(30, WIDTH)),
    ]
    parts = firings(
        tmp_path, crosscoder, PairedActivations(shards, summarise(shards, Activations(skip_first=3)))
    )
    assert [(part.shard, len(part.rows), len(part.value) > 0) for part in parts] == [
        (1, 2, False),
        (2, 27, True),
    ]
