"""The strongest contexts of each latent against a naive search."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import random_activations, random_crosscoder, write_pair

from crossdiff.activations import pairs
from crossdiff.activations.pairs import PairedActivations, summarise
from crossdiff.config import Activations, Examples
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents import COLUMNS, strongest_examples

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
    """Two shards; the second ends in a sequence of two tokens."""
    shards = [
        write_pair(folder, f"{number:04d}", random_activations(sum(lengths), WIDTH, seed=number), lengths)
        for number, lengths in enumerate(LENGTHS)
    ]
    return PairedActivations(shards, summarise(shards, Activations(**settings)))


def naive(crosscoder: Crosscoder, activations: PairedActivations, settings: Examples) -> list[dict]:
    """Every sequence of every shard looked at for every latent, token by token."""
    found, left = [], settings.tokens
    for number, shard in enumerate(activations.shards):
        codes = crosscoder.encode(crosscoder.normalise(shard.read(0, shard.rows))).numpy()
        for row in range(shard.rows):
            kept = shard.tokens.position[row] >= activations.summary.skip_first
            if not kept or left <= 0:
                codes[row] = 0
            left -= kept
        first = 0
        for length in LENGTHS[number]:
            for latent in range(LATENTS):
                values = codes[first : first + length, latent]
                if values.any():
                    at = int(values.argmax())
                    start, stop = first + max(0, at - settings.before), first + min(length, at + settings.after + 1)
                    found.append(
                        {
                            "latent": latent,
                            "shard": number,
                            "document": int(shard.tokens.document[first]),
                            "peak": values.max(),
                            "start": start,
                            "tokens": shard.tokens.token[start:stop].tolist(),
                            "template": shard.tokens.template[start:stop].tolist(),
                            "activations": codes[start:stop, latent],
                        }
                    )
            first += length
    found.sort(key=lambda example: (example["latent"], -example["peak"], example["shard"], example["start"]))
    return [e for i, e in enumerate(found) if i < settings.per_latent or found[i - settings.per_latent]["latent"] != e["latent"]]


def assert_same(table: pd.DataFrame, expected: list[dict]) -> None:
    assert tuple(table.columns) == COLUMNS
    for name in ("latent", "shard", "document", "start", "tokens", "template"):
        assert table[name].tolist() == [example[name] for example in expected], name
    np.testing.assert_allclose(table.peak, [example["peak"] for example in expected], rtol=1e-5)
    for row, example in zip(table.activations, expected, strict=True):
        np.testing.assert_allclose(row, example["activations"], atol=1e-4)


@pytest.mark.parametrize("skip_first", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [
        Examples(per_latent=1, before=3, after=2),
        Examples(per_latent=3, before=0, after=0),
        Examples(per_latent=50, before=100, after=100),
        Examples(per_latent=50, before=2, after=3, tokens=20),
        Examples(per_latent=50, before=2, after=3, tokens=36),
        Examples(per_latent=2, before=1, after=1, tokens=5),
    ],
    ids=["strongest", "peak only", "whole sequences", "within a shard", "beyond a shard", "few tokens"],
)
def test_examples_equal_a_naive_search(tmp_path: Path, crosscoder: Crosscoder, skip_first: int, settings: Examples) -> None:
    activations = cached(tmp_path, skip_first=skip_first)
    expected = naive(crosscoder, activations, settings)
    assert expected
    assert_same(strongest_examples(crosscoder, activations, settings), expected)


def test_examples_do_not_depend_on_the_chunks(tmp_path: Path, crosscoder: Crosscoder, monkeypatch: pytest.MonkeyPatch) -> None:
    activations, settings = cached(tmp_path, skip_first=1), Examples(per_latent=3, tokens=30, before=2, after=2)
    whole = strongest_examples(crosscoder, activations, settings)
    monkeypatch.setattr(pairs, "CHUNK_ROWS", 4)
    pd.testing.assert_frame_equal(strongest_examples(crosscoder, activations, settings), whole)


def test_contexts_stay_within_their_sequence_and_hold_the_peak(tmp_path: Path, crosscoder: Crosscoder) -> None:
    table = strongest_examples(crosscoder, cached(tmp_path), Examples(per_latent=50, before=4, after=4))
    for example in table.itertuples():
        starts = np.cumsum([0, *LENGTHS[example.shard]])
        sequence = np.searchsorted(starts, example.start, side="right") - 1
        assert example.start + len(example.tokens) <= starts[sequence + 1]
        assert max(example.activations) == pytest.approx(example.peak, abs=1e-4)
    assert not table.duplicated(["latent", "shard", "document"]).any()
    assert 4 not in table.latent.tolist()


def test_no_firing_at_all_gives_an_empty_table(tmp_path: Path, crosscoder: Crosscoder) -> None:
    crosscoder.encoder_bias.fill_(-100)
    assert_same(strongest_examples(crosscoder, cached(tmp_path), Examples()), [])


def test_shard_without_firings_is_passed_over(tmp_path: Path, crosscoder: Crosscoder) -> None:
    silent = crosscoder.mean.expand(5, 2, WIDTH)  # zero on the crosscoder's scale: only biases are left
    crosscoder.encoder_bias.clamp_max_(0)
    shards = [write_pair(tmp_path, "silent", silent), write_pair(tmp_path, "loud", random_activations(30, WIDTH))]
    table = strongest_examples(crosscoder, PairedActivations(shards, summarise(shards, Activations())), Examples())
    assert set(table.shard) == {1}


def test_shard_without_kept_tokens_is_passed_over(tmp_path: Path, crosscoder: Crosscoder) -> None:
    shards = [write_pair(tmp_path, "short", random_activations(2, WIDTH)), write_pair(tmp_path, "long", random_activations(30, WIDTH))]
    table = strongest_examples(crosscoder, PairedActivations(shards, summarise(shards, Activations(skip_first=3))), Examples())
    assert set(table.shard) == {1}


def test_equal_peaks_come_in_order_of_shard_and_row(tmp_path: Path, crosscoder: Crosscoder) -> None:
    same = torch.cat([random_activations(3, WIDTH)] * 4)
    shards = [write_pair(tmp_path, name, same, [3] * 4) for name in ("a", "b")]
    settings = Examples(per_latent=6, before=5, after=5)
    table = strongest_examples(crosscoder, PairedActivations(shards, summarise(shards, Activations())), settings)
    assert set(table.latent)
    for _, group in table.groupby("latent"):
        assert group[["shard", "start"]].to_numpy().tolist() == [[0, 0], [0, 3], [0, 6], [0, 9], [1, 0], [1, 3]]
