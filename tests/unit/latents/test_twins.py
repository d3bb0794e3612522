"""Twins: planted pairs, and the divergence of their activations against its definition."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import paired, random_activations, random_crosscoder
from helpers_codes import active_file
from helpers_latents import classed
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.config import Twins
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents import twins as module
from crossdiff.latents.twin_counts import twin_counts
from crossdiff.latents.twins import (
    COLUMNS,
    Activity,
    activities,
    control_pairs,
    find_twins,
    firing_divergence,
    twin_pairs,
)

WIDTH = 8


def activity(*values: float) -> Activity:
    """Of a latent whose values on tokens 0, 1, 2, ... are these."""
    token = np.flatnonzero(values)
    return Activity(token, np.asarray(values)[token])


# Divergence


@pytest.mark.parametrize(
    ("chat_only", "base_only", "expected"),
    [
        ([1, 0, 1, 0], [0, 1, 0, 1], (1.0, 2, 2, 0)),  # never together
        ([1, 0.5, 0, 0], [1, 0.5, 0, 0], (0.0, 2, 2, 2)),  # always together
        ([1, 1, 0, 0.3], [1, 0, 0, 0.3], (0.5, 2, 1, 1)),  # 0.3 is not high
        ([1, 1], [1, 0.2], (0.0, 2, 1, 1)),  # 0.2 is neither high nor low
        ([1, 1], [1, 0.1], (0.5, 2, 1, 1)),  # 0.1 is low
        ([10, 0, 0], [0, 2, 4.1], (1.0, 1, 1, 0)),  # over the joint maximum 2 is not high
        ([1, 1], [0, 0], (1.0, 2, 0, 0)),  # one that never fires
    ],
)
def test_divergence_of_planted_pairs(chat_only: list[float], base_only: list[float], expected: tuple) -> None:
    assert firing_divergence(activity(*chat_only), activity(*base_only)) == expected
    mirrored = firing_divergence(activity(*base_only), activity(*chat_only))
    assert (mirrored.divergence, mirrored.high_base_only, mirrored.high_chat_only) == expected[:3]


def test_latents_that_never_fire_have_no_divergence() -> None:
    found = firing_divergence(activity(0, 0), activity(0, 0))
    assert math.isnan(found.divergence) and found[1:] == (0, 0, 0)


VALUES = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=30)


@given(VALUES)
def test_divergence_equals_its_definition_by_buckets(values: list[tuple[int, int]]) -> None:
    """Edges 1e-6, 0.1, 0.4, 0.7; high from bucket 3 on, low below 2."""
    largest = max(max(pair) for pair in values)
    both = (
        [[sum(v / largest > edge for edge in (1e-6, 0.1, 0.4, 0.7)) for v in pair] for pair in values]
        if largest
        else []
    )
    either = sum(a >= 3 or b >= 3 for a, b in both)
    apart = sum((a >= 3 and b < 2) or (b >= 3 and a < 2) for a, b in both)
    found = firing_divergence(*(activity(*column) for column in zip(*values, strict=True)))
    assert found.divergence == pytest.approx(apart / either if either else math.nan, nan_ok=True)


# Pairs


def test_pairs_compare_the_chat_direction_of_one_with_the_base_direction_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    decoder = torch.randn(40, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    decoder[3, 1] = 7 * decoder[20, 0]
    decoder[4, 0] = decoder[21, 1]  # the wrong way round
    chat_only, base_only = np.arange(1, 10), np.array([20, 21, 33])
    expected = [
        (i, j)
        for i, a in enumerate(chat_only)
        for j, b in enumerate(base_only)
        if torch.nn.functional.cosine_similarity(decoder[a, 1], decoder[b, 0], dim=0) > 0.3
    ]
    assert len(expected) > 1 and (2, 0) in expected
    assert [tuple(pair) for pair in twin_pairs(decoder, chat_only, base_only, 0.3)] == expected
    assert twin_pairs(decoder, chat_only, base_only, 0.99).tolist() == [[2, 0]]


def test_controls_are_as_many_other_pairs() -> None:
    twins = np.array([[0, 0], [1, 2], [3, 1]])
    controls = control_pairs(twins, 5, 4)
    pairs = {tuple(pair) for pair in controls.tolist()}
    assert len(pairs) == len(controls) == 3
    assert not pairs & {tuple(pair) for pair in twins.tolist()}
    assert (controls < [5, 4]).all() and (controls >= 0).all()
    np.testing.assert_array_equal(control_pairs(twins, 5, 4), controls)  # seeded


def test_controls_run_out_with_the_pairs() -> None:
    assert control_pairs(np.array([[0, 0], [0, 1]]), 1, 3).tolist() == [[0, 2]]
    assert len(control_pairs(np.array([[0, 0]]), 1, 1)) == 0


# A crosscoder


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Crosscoder, Path, pd.DataFrame]:
    """Latents 0 and 1 (chat-only) are twins of 4 and 5 (base-only).

    0 and 4 fire on the same tokens, 1 and 5 on different ones.
    """
    crosscoder = random_crosscoder(WIDTH, 8).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in (crosscoder.encoder, crosscoder.encoder_bias, crosscoder.mean):
        parameter.zero_()
    crosscoder.scale.fill_(1)
    for chat_only, base_only in ((0, 4), (1, 5)):
        direction = torch.randn(WIDTH, generator=generator)
        crosscoder.decoder[chat_only] = torch.stack([0 * direction, direction])
        # The vector is twice as long, so half the activation is as strong.
        crosscoder.decoder[base_only] = torch.stack([2 * direction, 0 * direction])
    crosscoder.encoder[0, 1, 0], crosscoder.encoder[4, 1, 0] = 1, 0.5
    crosscoder.encoder[1, 1, 1], crosscoder.encoder[5, 1, 2] = 1, 0.5
    tokens = torch.zeros(60, 2, WIDTH)
    tokens[:20, 1, 0], tokens[20:40, 1, 1], tokens[40:, 1, 2] = 1, 1, 1
    betas = classed(["chat-only"] * 3 + ["shared"] + ["base-only"] * 3 + ["dead"])
    return (
        crosscoder,
        active_file(tmp_path / "active.parquet", crosscoder, paired(tmp_path, tokens[:30], tokens[30:])),
        betas,
    )


def test_planted_twins_are_found_with_their_divergence(planted: tuple) -> None:
    table = find_twins(*planted, Twins())
    assert tuple(table.columns) == COLUMNS
    twins = table[table.kind == "twin"]
    assert twins[["chat_only", "base_only", "divergence"]].to_numpy().tolist() == [[0, 4, 0], [1, 5, 1]]
    assert twins[["high_chat_only", "high_base_only", "high_both"]].to_numpy().tolist() == [
        [20, 20, 20],
        [20, 20, 0],
    ]
    assert twins.cosine.to_numpy() == pytest.approx(1)
    controls = table[table.kind == "control"]
    assert len(controls) == 2
    assert set(controls.chat_only) <= {0, 1, 2} and set(controls.base_only) <= {4, 5, 6}
    decoder = planted[0].decoder
    for row in controls.itertuples():
        assert row.cosine == pytest.approx(
            torch.cosine_similarity(decoder[row.chat_only, 1], decoder[row.base_only, 0], dim=0).item(),
            abs=1e-6,
        )
    assert twin_counts(table)["twins"] == 2
    assert twin_counts(table)["twins_divergent"] == 0.5


def test_activities_are_those_of_the_dense_codes(planted: tuple, tmp_path: Path) -> None:
    crosscoder, _, _ = planted
    activations = random_activations(50, WIDTH)
    active = active_file(
        tmp_path / "active.parquet", crosscoder, paired(tmp_path, activations[:30], activations[30:])
    )
    scale = crosscoder.decoder_norms().sum(dim=1)
    scaled = crosscoder.encode(activations.float()) * scale
    for latent, found in activities(active, scale.numpy(), np.array([1, 2, 4])).items():
        assert found.token.tolist() == scaled[:, latent].nonzero().flatten().tolist()
        assert (len(found.token) > 0) == (latent != 2)
        np.testing.assert_allclose(found.value, scaled[:, latent][scaled[:, latent] > 0], rtol=1e-6)


@pytest.mark.parametrize(
    "classes", [["shared"] * 8, ["chat-only"] * 4 + ["shared"] * 4, ["shared"] * 4 + ["base-only"] * 4]
)
def test_empty_class_gives_an_empty_table(planted: tuple, classes: list[str]) -> None:
    crosscoder, active, _ = planted
    table = find_twins(crosscoder, active, classed(classes), Twins())
    assert tuple(table.columns) == COLUMNS and len(table) == 0
    counts = twin_counts(table)
    assert (
        counts["twins"] == 0
        and math.isnan(counts["twins_divergent"])
        and math.isnan(counts["controls_divergent"])
    )
