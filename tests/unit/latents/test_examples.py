"""Each latent's contexts agree with a naive search, however the stream of firings is cut."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_activations import random_activations, random_crosscoder, token_shard, write_pair
from helpers_codes import active_file
from helpers_latents import firings_of
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.activations.pairs import PairedActivations, summarise
from crossdiff.config import Activations, Examples
from crossdiff.latents import examples as module
from crossdiff.latents.examples import SCHEMA, ExampleCollector
from crossdiff.latents.firings import Firings, read_firings
from crossdiff.texts.shards import Shard


def collected(
    shards: list[Shard], largest: np.ndarray, settings: Examples, parts: list[Firings]
) -> list[dict[str, Any]]:
    collector = ExampleCollector(shards, largest, settings)
    for part in parts:
        collector.add(part)
    return pa.Table.from_batches(collector.batches(), SCHEMA).to_pylist()


def naive(
    shards: list[Shard], codes: list[np.ndarray], largest: np.ndarray, settings: Examples
) -> list[dict[str, Any]]:
    """Look at every sequence of every shard for every latent."""
    found = []
    for latent in range(len(largest)):
        mine = []
        for number, shard in enumerate(shards):
            starts = [*shard.sequence_starts().tolist(), len(shard.token)]
            for first, end in pairwise(starts):
                values = codes[number][first:end, latent]
                if values.any():
                    at = first + int(values.argmax())
                    start, stop = max(first, at - settings.before), min(end, at + settings.after + 1)
                    bins = [q for q in settings.quantiles if values.max() <= np.float32(q) * largest[latent]]
                    key = module._random_keys(np.array([latent], np.int32), number, np.array([first]))[0]
                    mine.append(
                        {
                            "latent": latent,
                            "shard": number,
                            "document": int(shard.document[first]),
                            "peak": float(values.max()),
                            "quantile": next(iter(bins), 1.0),
                            "start": start,
                            "tokens": shard.token[start:stop].tolist(),
                            "template": shard.template[start:stop].tolist(),
                            "activations": codes[number][start:stop, latent].tolist(),
                            "key": key,
                        }
                    )
        mine.sort(key=lambda example: -example["peak"])
        for place, example in enumerate(mine):
            smaller = [
                other
                for other in mine
                if other["quantile"] == example["quantile"] and other["key"] < example["key"]
            ]
            example["strongest"] = place < settings.per_latent
            example["sampled"] = len(smaller) < settings.per_quantile
        found += [example for example in mine if example["strongest"] or example["sampled"]]
    for example in found:
        del example["key"]
    return found


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Shard], list[np.ndarray], np.ndarray, Examples, list[Firings]]:
    """Shards, codes, largest activations and settings, and the firings cut at random ends of sequences."""
    latents = draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shards, codes, parts = [], [], []
    for number in range(draw(st.integers(1, 3))):
        lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
        shards.append(token_shard(lengths, first_document=100 * number))
        active = generator.random((sum(lengths), latents)) < draw(st.sampled_from([0.0, 0.1, 0.5]))
        # Few values, so there are many ties.
        codes.append((generator.integers(1, 6, active.shape) * active).astype(np.float32))
        borders = np.cumsum(lengths)
        cuts = borders[generator.random(len(borders)) < 0.5]
        parts += [
            firings_of(codes[-1], number, rows)
            for rows in np.split(np.arange(sum(lengths)), cuts)
            if len(rows)
        ]
    settings = Examples(
        per_latent=draw(st.integers(1, 4)),
        quantiles=draw(st.sampled_from([[1.0], [0.5, 1.0], [0.25, 0.5, 0.75, 0.95, 1.0]])),
        per_quantile=draw(st.integers(1, 3)),
        before=draw(st.integers(0, 7)),
        after=draw(st.integers(0, 7)),
    )
    # Usually the maximum of these tokens. It is less after a rounding or a smaller search, and more when the
    # strongest tokens lie elsewhere.
    largest = np.stack([part.max(axis=0) for part in codes]).max(axis=0) * np.float32(
        draw(st.sampled_from([0.7, 1.0, 3.0]))
    )
    return shards, codes, largest, settings, parts


@given(streams())
def test_examples_equal_a_naive_search(stream: tuple) -> None:
    shards, codes, largest, settings, parts = stream
    assert collected(shards, largest, settings, parts) == naive(shards, codes, largest, settings)


@pytest.fixture
def many() -> tuple[list[Shard], np.ndarray]:
    """A shard of 3,000 sequences of two tokens, and codes of 40 latents.

    The peaks of a latent all differ, with the strongest at the end.
    """
    shard = token_shard([2] * 3000)
    codes = np.zeros((6000, 40), np.float32)
    codes[1::2] = np.arange(1, 3001)[:, None] / 3000
    return [shard], codes


def pieces(codes: np.ndarray, size: int) -> Iterator[Firings]:
    return (firings_of(codes, 0, np.arange(start, start + size)) for start in range(0, len(codes), size))


def test_samples_are_uniform_in_their_bin(many: tuple[list[Shard], np.ndarray]) -> None:
    """20 of 1,500 sequences are drawn for each of 40 latents and two bins.

    Each half of a bin gets the same number, within 4 sigma.
    """
    shards, codes = many
    settings = Examples(per_latent=1, quantiles=[0.5, 1.0], per_quantile=20)
    rows = [
        row
        for row in collected(shards, codes.max(axis=0), settings, list(pieces(codes, 600)))
        if row["sampled"]
    ]
    assert len(rows) == 40 * 2 * 20
    for low, high in ((0, 0.5), (0.5, 1)):
        places = np.array([(row["peak"] - low) / (high - low) for row in rows if low < row["peak"] <= high])
        assert len(places) == 800
        assert abs((places > 0.5).mean() - 0.5) < 4 * 0.5 / 800**0.5
    # Latents are sampled independently: no sequence comes up for all of them.
    assert len({row["start"] for row in rows}) > 1000


def test_memory_stays_bounded(many: tuple[list[Shard], np.ndarray]) -> None:
    shards, codes = many
    settings = Examples(per_latent=5, quantiles=[0.5, 1.0], per_quantile=3)
    collector = ExampleCollector(shards, codes.max(axis=0), settings)
    held = []
    for part in pieces(codes, 60):
        collector.add(part)
        held.append(sum(len(contexts.latent) for contexts in collector.pool))
    assert max(held) <= 2 * 40 * (5 + 2 * 3)


def test_batches_of_the_file_do_not_cut_anything(
    many: tuple[list[Shard], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, codes = many
    settings, parts = Examples(per_latent=3, per_quantile=2), list(pieces(codes[:120], 20))
    whole = collected(shards, codes[:120].max(axis=0), settings, parts)
    monkeypatch.setattr(module, "BATCH", 7)
    assert collected(shards, codes[:120].max(axis=0), settings, parts) == whole


def test_from_caches_to_contexts(tmp_path: Path) -> None:
    """The whole way, with a latent that never fires and tokens that do not count."""
    crosscoder = random_crosscoder(4, 6, seed=3).requires_grad_(False)
    crosscoder.threshold.fill_(1.0)
    crosscoder.encoder_bias[4] = -100
    lengths = ([7, 1, 12, 3, 9], [5, 20, 2])
    shards = [
        write_pair(tmp_path, str(number), random_activations(sum(part), 4, seed=number), part)
        for number, part in enumerate(lengths)
    ]
    activations = PairedActivations(shards, summarise(shards, Activations(skip_first=1)))
    codes = [crosscoder.encode(crosscoder.normalise(shard.read(0, shard.rows))).numpy() for shard in shards]
    for shard, part in zip(shards, codes, strict=True):
        part[shard.tokens.position == 0] = 0
    largest = np.concatenate(codes).max(axis=0)
    settings = Examples(per_latent=2, per_quantile=1, before=3, after=2)
    path, texts = active_file(tmp_path / "active.parquet", crosscoder, activations), activations.token_shards
    found = collected(texts, largest, settings, list(read_firings(path, texts, settings.tokens)))
    expected = naive(texts, codes, largest, settings)
    assert {row["latent"] for row in expected} == {0, 1, 3, 5}
    assert [{**row, "peak": None, "activations": None} for row in found] == [
        {**row, "peak": None, "activations": None} for row in expected
    ]
    for row, wanted in zip(found, expected, strict=True):
        assert row["activations"] == pytest.approx(wanted["activations"], rel=1e-5)
        assert row["peak"] == max(row["activations"])


def test_no_firing_at_all_gives_an_empty_table() -> None:
    shard = token_shard([3, 2])
    assert (
        collected(
            [shard],
            np.zeros(2, np.float32),
            Examples(),
            [firings_of(np.zeros((5, 2), np.float32), 0, np.arange(5))],
        )
        == []
    )
