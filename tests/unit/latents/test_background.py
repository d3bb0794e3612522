"""Random contexts against a naive walk, however the stream of firings is cut."""

import numpy as np
import pytest
from helpers_activations import token_shard
from helpers_latents import firings_of

from crossdiff.config import Examples
from crossdiff.latents.background import BackgroundCollector

LENGTHS = [5, 1, 12, 3, 30, 7]


def collected(pieces: list[list[int]], codes: np.ndarray, shard, settings: Examples) -> list[dict]:
    """The contexts from firings on these rows at a time."""
    collector = BackgroundCollector([shard], len(codes), settings)
    for rows in pieces:
        collector.add(firings_of(codes, 0, np.array(rows)))
    return collector.table().to_pylist()


@pytest.mark.parametrize("background", [1000, 20])
def test_contexts_and_their_latents(background: int) -> None:
    shard = token_shard(LENGTHS, first_document=7)
    generator = np.random.default_rng(0)
    codes = (generator.random((sum(LENGTHS), 9)) < 0.1).astype(np.float32)
    settings = Examples(background=background, before=4, after=2)
    rows = list(range(1, sum(LENGTHS)))  # the first token does not count
    found = collected([rows], codes, shard, settings)
    assert found == collected([rows[:17], rows[17:20], rows[20:]], codes, shard, settings)
    starts = [*shard.sequence_starts().tolist(), sum(LENGTHS)]
    for context in found:
        centre = context["start"] + context["centre"]
        first = max(start for start in starts if start <= centre)
        end = min(start for start in starts if start > centre)
        start, stop = max(first, centre - 4), min(end, centre + 3)
        assert context["start"] == start and context["tokens"] == shard.token[start:stop].tolist()
        assert context["document"] == shard.document[centre] and context["shard"] == 0
        fired = {latent for row in range(start, stop) if row in rows for latent in np.flatnonzero(codes[row])}
        assert context["latents"] == sorted(fired)
    centres = [context["start"] + context["centre"] for context in found]
    assert len(set(centres)) == len(centres)
    if background == 1000:
        assert centres == rows  # more are asked for than there are: all of them
    else:
        assert 8 <= len(centres) <= 32


def test_nothing_read_gives_an_empty_table() -> None:
    assert BackgroundCollector([], 0, Examples()).table().num_rows == 0


def test_draws_are_spread_over_the_text() -> None:
    shard = token_shard([10] * 1000)
    found = collected(
        [list(range(10_000))], np.zeros((10_000, 1), np.float32), shard, Examples(background=2000)
    )
    centres = np.array([context["start"] + context["centre"] for context in found])
    assert abs(len(centres) - 2000) < 4 * 2000**0.5
    assert np.abs(np.histogram(centres, bins=10, range=(0, 10_000))[0] - 200).max() < 4 * 200**0.5
