"""Groups of confirmed latents: what is alike, and what each group fires on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossdiff.crosscoders.active_file import active_writer
from crossdiff.latents.groups import CoFiring, group_table, groups
from crossdiff.texts.shards import Shard

APART = np.eye(4)  # directions without a common part
NOTHING = np.zeros((4, 4))
# What fires on each token (latents): two shards of three sequences of two tokens each.
FIRES = [
    [[1], [3], [1, 3], [], [5], [5]],
    [[1], [3], [], [], [5], []],
]
DATASETS = ["talk", "pages"]


def shard() -> Shard:
    position = np.tile(np.arange(2, dtype=np.int32), 3)
    codes = np.zeros(6, np.int8)
    return Shard(position, np.arange(6) // 2, position, codes, codes)


@pytest.fixture
def active(tmp_path: Path) -> Path:
    with active_writer(tmp_path / "active.parquet", [shard()] * 2) as writer:
        for number, tokens in enumerate(FIRES):
            latent = np.array([one for fires in tokens for one in fires], np.int32)
            counts = np.array([len(fires) for fires in tokens])
            writer.add(number, np.arange(6), counts, latent, np.ones(len(latent), np.float32))
    return tmp_path / "active.parquet"


def test_firing_together_is_counted_by_sequence(active: Path) -> None:
    found = CoFiring(active, [shard()] * 2, DATASETS, np.array([1, 3]))
    assert found.sequences == 6
    # Both fire in the first two sequences of the first shard, and in the first one of the second.
    assert found.together.tolist() == [[3, 3], [3, 3]]
    assert {name: counts.tolist() for name, counts in found.by_dataset.items()} == {
        "talk": [2, 2],
        "pages": [1, 1],
    }
    assert found.tokens == {"talk": 6, "pages": 6}


def test_correlation_is_pearsons_over_sequences(active: Path) -> None:
    fires = np.array([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]])  # latents 1 and 5, by sequence
    found = CoFiring(active, [shard()] * 2, DATASETS, np.array([1, 5])).correlation()
    np.testing.assert_allclose(found, np.corrcoef(fires), atol=1e-12)


def test_latent_that_never_fires_is_alike_to_none(active: Path) -> None:
    found = CoFiring(active, [shard()] * 2, DATASETS, np.array([0, 1])).correlation()
    assert found[0].tolist() == [0, 0] and found[1, 1] == pytest.approx(1)


def alike(value: float, *pairs: tuple[int, int]) -> np.ndarray:
    found = NOTHING.copy()
    for one, other in pairs:
        found[one, other] = found[other, one] = value
    return found


@pytest.mark.parametrize(
    ("directions", "correlation", "expected"),
    [
        (APART, NOTHING, [0, 1, 2, 3]),
        (APART, alike(0.51, (0, 2)), [0, 1, 0, 2]),
        (APART, alike(1 + 1e-15, (0, 2)), [0, 1, 0, 2]),
        (APART, alike(0.49, (0, 2)), [0, 1, 2, 3]),
        # 0.8 joins 0 and 1. With them 2 has a mean likeness of 0.45, though 0.9 with one of them.
        (APART, alike(0.8, (0, 1)) + alike(0.9, (1, 2)), [0, 1, 1, 2]),
        (np.array([[1.0, 0], [0, 3], [5, 0.1], [0, -1]]), NOTHING, [0, 1, 0, 2]),  # opposite is not alike
    ],
)
def test_groups_are_joined_by_their_mean_likeness(
    directions: np.ndarray, correlation: np.ndarray, expected: list[int]
) -> None:
    assert groups(directions, correlation).tolist() == expected


@pytest.mark.parametrize("count", [0, 1])
def test_few_latents_are_a_group_each(count: int) -> None:
    assert groups(APART[:count], NOTHING[:count, :count]).tolist() == [0] * count


def test_table_keeps_base_only_latents_apart_and_orders_by_strength(active: Path) -> None:
    betas = pd.DataFrame(
        {
            "latent": [1, 3, 5],
            "class": ["chat-only", "base-only", "other"],
            "frequency": [0.5, 0.25, 0.1],
            "mean_activation": [2.0, 4.0, 1.0],
        }
    )
    directions = np.array([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]])  # norms 5, 5, 1; the first two are equal
    found = group_table(betas, directions, active, [shard()] * 2, DATASETS)
    # The cosine of 1 and 5 is 0.8.
    assert found.latent.tolist() == [1, 3, 5] * 2
    assert found.group.tolist() == [0, 1, 0] * 2
    assert found.strength.tolist() == [5.0, 5.0, pytest.approx(0.1)] * 2
    assert found.dataset.tolist() == ["talk"] * 3 + ["pages"] * 3
    assert found.firings.tolist() == [2] * 3 + [1] * 3 and set(found.tokens) == {6}


def test_no_confirmed_latent_gives_no_row(active: Path) -> None:
    betas = pd.DataFrame({"latent": [], "class": [], "frequency": [], "mean_activation": []}).astype(
        {"latent": int}
    )
    found = group_table(betas, np.zeros((0, 4)), active, [shard()] * 2, DATASETS)
    assert found.empty and "firings" in found
