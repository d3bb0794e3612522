"""Agreement across seeds: permuted, noisy and unrelated crosscoders."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_latents import classed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.config import SeedAgreement
from crossdiff.latents import agreement as module
from crossdiff.latents.agreement import COLUMNS, matches, nearest, seed_agreement

LATENTS, WIDTH = 40, 64
CLASSES = ["dead"] * 5 + ["shared"] * 25 + ["chat-only"] * 10


def decoder_of(seed: int, latents: int = LATENTS) -> Tensor:
    return torch.randn(latents, 2, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_nearest_neighbours_equal_those_of_the_whole_matrix(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 5, generator=generator), torch.randn(m, 5, generator=generator)
    cosines = torch.nn.functional.cosine_similarity(a[:, None], b, dim=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 7)
        of_a, of_b = nearest(a, b)
    for found, dim in ((of_a, 1), (of_b, 0)):
        torch.testing.assert_close(found.cosine, cosines.max(dim=dim).values)
        assert found.row.tolist() == cosines.argmax(dim=dim).tolist()


def test_permuted_and_rescaled_crosscoder_matches_in_full(small_blocks: None) -> None:
    decoder, order = decoder_of(0), torch.randperm(LATENTS, generator=torch.Generator().manual_seed(0))
    table = classed(CLASSES)
    permuted = table.iloc[order.numpy()].reset_index(drop=True).assign(latent=range(LATENTS))
    found = seed_agreement((decoder, 3 * decoder[order]), (table, permuted), top=8, settings=SeedAgreement())
    assert set(found) | {"crosscoder", "seed_a", "seed_b"} == set(COLUMNS)
    assert found["live_a"] == found["live_b"] == found["matched"] == 35
    assert found["matched_share"] == 1
    assert found["mean_max_cosine"] == pytest.approx(1)
    assert found["chat_only_a"] == found["chat_only_b"] == found["chat_only_recurring"] == 10
    assert found["top"] == found["top_matched"] == found["top_recurring"] == 8
    assert found["top_recurring_by_chance"] == pytest.approx(8 * 8 / 35)


def test_unrelated_crosscoders_do_not_match(small_blocks: None) -> None:
    found = seed_agreement(
        (decoder_of(0), decoder_of(1)), (classed(CLASSES), classed(CLASSES)), top=8, settings=SeedAgreement()
    )
    assert (
        found["matched"]
        == found["chat_only_recurring"]
        == found["top_matched"]
        == found["top_recurring"]
        == 0
    )
    assert found["matched_share"] == 0
    assert 0 < found["mean_max_cosine"] < 0.5


def test_only_what_is_shared_recurs(small_blocks: None) -> None:
    """Three of ten chat-only latents are found again, one of them as shared; so are all shared latents."""
    first, second = decoder_of(0), decoder_of(1)
    second[5:33] = first[5:33] + 0.1 * decoder_of(2)[5:33]
    classes = [*CLASSES[:32], "shared", *CLASSES[33:]]
    found = seed_agreement(
        (first, second), (classed(CLASSES), classed(classes)), top=10, settings=SeedAgreement()
    )
    assert found["matched"] == 28 and found["matched_share"] == pytest.approx(28 / 35)
    assert (found["chat_only_a"], found["chat_only_b"], found["chat_only_recurring"]) == (10, 9, 2)
    assert (found["top_matched"], found["top_recurring"]) == (3, 3)  # by rank all three lean as far in both
    assert found["top_recurring_by_chance"] == pytest.approx(3 * 10 / 35)


def test_dead_latents_are_left_out() -> None:
    decoder = decoder_of(0)
    half = classed(["shared"] * 20 + ["dead"] * 20)
    found = seed_agreement(
        (decoder, decoder), (classed(["shared"] * 40), half), top=4, settings=SeedAgreement()
    )
    assert (found["live_a"], found["live_b"], found["matched"], found["matched_share"]) == (40, 20, 20, 1)


def test_two_latents_cannot_match_the_same_one() -> None:
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    a = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.6, 0.8]])
    pairs, _ = matches(a, b, 0.7)
    assert pairs.tolist() == [[1, 0], [2, 1]]
    assert matches(a, b, 0.9)[0].tolist() == [[1, 0]]


@pytest.mark.parametrize("dead", ["a", "b", "both"])
def test_crosscoder_without_live_latents_agrees_with_nothing(dead: str) -> None:
    tables = [classed(["dead"] * LATENTS if dead in (name, "both") else CLASSES) for name in ("a", "b")]
    found = seed_agreement(
        (decoder_of(0), decoder_of(0)), (tables[0], tables[1]), top=8, settings=SeedAgreement()
    )
    assert found["matched"] == found["top"] == found["top_recurring"] == 0
    assert math.isnan(found["matched_share"]) and math.isnan(found["mean_max_cosine"])
    assert pd.DataFrame([found]).isin([np.inf]).sum(axis=None) == 0
