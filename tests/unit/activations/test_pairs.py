"""Caches of both models in step: what belongs together, which tokens count, scaling and the reading order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import LAYER, everything, random_activations, token_shard, write_pair, write_tokens
from torch import Tensor

from crossdiff.activations import pairs
from crossdiff.activations.cache import write_cache
from crossdiff.activations.pairs import (
    PairedActivations,
    PairedShard,
    kept_blocks,
    read_summary,
    summarise,
    write_summary,
)
from crossdiff.config import Activations, Normalisation
from crossdiff.errors import UserError

WIDTH = 4


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Sixteen rows per chunk, so that little data has many."""
    monkeypatch.setattr(pairs, "CHUNK_ROWS", 16)
    return 16


# What belongs together


@pytest.mark.parametrize(
    ("ids", "layer", "width", "found"),
    [
        (np.arange(10), LAYER, WIDTH, "other tokens"),
        (np.arange(1, 11), LAYER + 1, WIDTH, f"layer {LAYER + 1} of width {WIDTH}"),
        (np.arange(1, 11), LAYER, WIDTH + 1, f"layer {LAYER} of width {WIDTH + 1}"),
    ],
)
def test_caches_that_do_not_belong_together_are_refused_by_name(
    tmp_path: Path, ids: np.ndarray, layer: int, width: int, found: str
) -> None:
    shard = token_shard([10])
    tokens = write_tokens(tmp_path / "tokens.parquet", shard)
    write_cache(tmp_path / "base.h5", torch.zeros(10, WIDTH, dtype=torch.bfloat16), LAYER, shard.token)
    write_cache(tmp_path / "chat.h5", torch.zeros(10, width, dtype=torch.bfloat16), layer, ids)
    with pytest.raises(UserError, match=found) as caught:
        PairedShard(tokens, tmp_path / "base.h5", tmp_path / "chat.h5")
    assert str(caught.value).startswith(f"{tmp_path / 'chat.h5'}: ")


def test_model_axis_is_base_then_chat(tmp_path: Path) -> None:
    activations = random_activations(10, WIDTH)
    shard = write_pair(tmp_path, "0000", activations)
    assert torch.equal(shard.read(2, 7), activations[2:7])
    np.testing.assert_allclose(shard.norms, activations.double().norm(dim=2).T, rtol=1e-6)


def test_summary_of_another_layer_is_refused(tmp_path: Path) -> None:
    shard = write_pair(tmp_path, "0000", random_activations(10, WIDTH))
    with pytest.raises(
        UserError, match=f"layer {LAYER} of width {WIDTH}, but the summary is of layer {LAYER + 1}"
    ):
        PairedActivations([shard], everything([shard])._replace(layer=LAYER + 1))


# Which tokens count


@pytest.fixture
def outliers(tmp_path: Path) -> PairedShard:
    """Sequences of 6 and 4 tokens. Rows 0 (both models), 3 (base), 9 (chat) have norm 40, others norm 2."""
    activations = torch.ones(10, 2, WIDTH)
    activations[0] *= 20
    activations[3, 0] *= 20
    activations[9, 1] *= 20
    return write_pair(tmp_path, "0000", activations, [6, 4])


@pytest.mark.parametrize(
    ("skip_first", "max_norm_ratio", "left_out", "first", "by_norm"),
    [
        (0, None, [], 0, 0),
        (2, None, [0, 1, 6, 7], 4, 0),
        (0, 10.0, [0, 3, 9], 0, 3),
        (1, 10.0, [0, 3, 6, 9], 2, 2),  # row 0 is counted once, as a first token
        (0, 20.0, [], 0, 0),  # exactly at the limit: kept
    ],
)
def test_first_tokens_and_outliers_of_either_model_are_left_out_and_counted(
    outliers: PairedShard,
    skip_first: int,
    max_norm_ratio: float | None,
    left_out: list[int],
    first: int,
    by_norm: int,
) -> None:
    summary = summarise([outliers], Activations(skip_first=skip_first, max_norm_ratio=max_norm_ratio))
    assert np.flatnonzero(~summary.kept(outliers)).tolist() == left_out
    assert (summary.tokens, summary.skipped_as_first, summary.skipped_by_norm) == (10, first, by_norm)


def test_summary_that_keeps_no_token_is_refused(outliers: PairedShard) -> None:
    with pytest.raises(UserError, match=r"skip_first: 6 leaves none of 10 tokens"):
        summarise([outliers], Activations(skip_first=6))


def test_summary_of_a_single_token_is_refused(outliers: PairedShard) -> None:
    with pytest.raises(UserError, match=r"1 of 10 tokens are left"):
        summarise([outliers], Activations(skip_first=5))


# What is known of them


@pytest.fixture
def three_shards(tmp_path: Path) -> list[PairedShard]:
    """Shards of 50, 80 and 30 tokens in sequences of ten, with a few tokens of eight times the norm."""
    shards = []
    for number, rows in enumerate([50, 80, 30]):
        activations = random_activations(rows, WIDTH, seed=number) + torch.tensor([[1.0], [-2.0]])
        activations[::17] *= 8
        shards.append(write_pair(tmp_path, f"{number:04d}", activations, [10] * (rows // 10)))
    return shards


@pytest.mark.parametrize("max_norm_ratio", [None, 3.0])
def test_summary_equals_numpy_on_the_concatenated_tokens(
    three_shards: list[PairedShard], small_chunks: int, max_norm_ratio: float | None
) -> None:
    summary = summarise(three_shards, Activations(skip_first=2, max_norm_ratio=max_norm_ratio))
    x = torch.cat([shard.read(0, shard.rows) for shard in three_shards]).double().numpy()
    late = x[np.concatenate([shard.tokens.position for shard in three_shards]) >= 2]
    norms = np.linalg.norm(late, axis=2)
    kept = late[(norms <= (max_norm_ratio or np.inf) * np.median(norms, axis=0)).all(axis=1)]
    np.testing.assert_allclose(summary.median_norm, np.median(norms, axis=0), rtol=1e-6)
    np.testing.assert_allclose(summary.mean, kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(summary.rms, np.sqrt(kept.var(axis=0).sum(axis=1)), rtol=1e-6)
    assert (summary.tokens, summary.skipped_as_first, summary.skipped_by_norm) == (160, 32, 128 - len(kept))
    assert (len(kept) < 128) == (max_norm_ratio is not None)


def test_means_are_of_an_equal_share_of_the_first_tokens_of_each_shard(
    three_shards: list[PairedShard], small_chunks: int
) -> None:
    summary = summarise(three_shards, Activations(statistics_tokens=70))  # 24 of each shard
    x = torch.cat([shard.read(0, 24) for shard in three_shards]).double().numpy()
    np.testing.assert_allclose(summary.mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(summary.rms, np.sqrt(x.var(axis=0).sum(axis=1)), rtol=1e-6)


def test_summary_survives_its_file(three_shards: list[PairedShard], tmp_path: Path) -> None:
    summary = summarise(three_shards, Activations(skip_first=1))
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


def scaled_rms(shards: list[PairedShard], normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Mean (model, d_model) and root mean square norm (model,) of all tokens after scaling."""
    mean, scale = everything(shards).scaling(normalisation)
    x = (torch.cat([shard.read(0, shard.rows) for shard in shards]).double() - mean) * scale[:, None]
    return x.mean(dim=0), x.square().sum(dim=2).mean(dim=0).sqrt()


def test_normalisation_none_changes_nothing(three_shards: list[PairedShard]) -> None:
    mean, scale = everything(three_shards).scaling(Normalisation(kind="none", target_rms=7.0))
    assert torch.equal(mean, torch.zeros(2, WIDTH))
    assert torch.equal(scale, torch.ones(2))


def test_normalisation_per_model_centres_and_scales_each_model_to_the_target(
    three_shards: list[PairedShard],
) -> None:
    mean, rms = scaled_rms(three_shards, Normalisation(kind="per_model", target_rms=7.0))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(rms, torch.full_like(rms, 7.0), atol=1e-4, rtol=0)


def test_normalisation_shared_centres_each_model_and_scales_both_alike(tmp_path: Path) -> None:
    shard = write_pair(tmp_path, "0000", random_activations(100, WIDTH) * torch.tensor([[1.0], [3.0]]) + 2)
    _, scale = everything([shard]).scaling(Normalisation(kind="shared", target_rms=7.0))
    mean, rms = scaled_rms([shard], Normalisation(kind="shared", target_rms=7.0))
    assert scale[0] == scale[1]
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        rms.square().mean().sqrt(), torch.tensor(7.0, dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert rms[1] > 2 * rms[0]  # the models' difference in scale is kept


# Reading them in order


@pytest.mark.parametrize("limit", [1, 15, 16, 17, 40, 63, 1000, None])
def test_kept_blocks_give_the_first_kept_rows_in_order(
    tmp_path: Path, small_chunks: int, limit: int | None
) -> None:
    activations = random_activations(70, WIDTH)
    shard = write_pair(tmp_path, "0000", activations, [10] * 7)
    summary = summarise([shard], Activations(skip_first=1))
    blocks = list(kept_blocks(shard, summary, limit))
    rows = np.concatenate([rows for rows, _ in blocks])
    assert rows.tolist() == [row for row in range(70) if row % 10][:limit]
    assert torch.equal(torch.cat([block for _, block in blocks]), activations[rows])


def test_blocks_give_the_kept_tokens_of_all_shards_in_order(
    three_shards: list[PairedShard], small_chunks: int
) -> None:
    summary = summarise(three_shards, Activations(skip_first=3))
    expected = [shard.read(0, shard.rows)[summary.kept(shard)] for shard in three_shards]
    blocks = list(PairedActivations(three_shards, summary).blocks())
    assert torch.equal(torch.cat([block.activations for block in blocks]), torch.cat(expected))
    documents = np.concatenate([shard.tokens.document[summary.kept(shard)] for shard in three_shards])
    assert np.concatenate([block.documents for block in blocks]).tolist() == documents.tolist()
