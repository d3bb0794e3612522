"""Overlap of pairs: matches and co-activation against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import random_crosscoder, token_shard
from helpers_latents import classed
from helpers_tables import scaling_table

from crossdiff.config import Classes, LatentScaling, SeedAgreement
from crossdiff.crosscoders.active_file import active_writer
from crossdiff.latents import evaluation
from crossdiff.latents.evaluation import shared_control
from crossdiff.latents.overlap import (
    COLUMNS,
    Firing,
    PairTraining,
    Search,
    TrainingFiles,
    co_activations,
    looked_for,
    overlap,
    overlap_table,
    pairs_table,
    search,
)
from crossdiff.latents.twins import Activity

AXES = torch.eye(6)
SHARDS = [token_shard([4]), token_shard([4])]
# Latents 0 to 3 of the first pair, then of the second: activations on the 8 tokens of both shards.
FIRST = np.array(
    [[4, 4, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 1]]
)
SECOND = np.array(
    [[0, 0, 0, 0, 0, 0, 2, 2], [2, 2, 0, 2, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [9, 0, 0, 0, 0, 0, 0, 9]]
)


def write_active(path: Path, values: np.ndarray, without: int | None = None) -> str:
    """Write activations (latents, tokens) on the tokens of SHARDS, without one of them."""
    with active_writer(path, SHARDS) as writer:
        for shard in range(2):
            for row in (row for row in range(4) if 4 * shard + row != without):
                on_token = values[:, 4 * shard + row]
                latent = np.flatnonzero(on_token).astype(np.int32)
                value = on_token[latent].astype(np.float32)
                writer.add(shard, np.array([row]), np.array([len(latent)]), latent, value)
    return str(path)


def betas(classes: list[str], confirmed: list[int], difference: list[float] | None = None) -> pd.DataFrame:
    table = classed(classes, difference)
    return table.assign(confirmed=table.latent.isin(confirmed))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[PairTraining, PairTraining]:
    """Two pairs. Latent 0 of the first is latent 1 of the second, by direction and by firing.

    Latent 1 of the first has no match. Latent 3 is shared in both, and latent 2 dead in the second.
    """
    tilted = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0, 0, 0, 0, 0]]))
    first = PairTraining(
        "first",
        torch.cat([5 * AXES[:3], AXES[3:4]]),
        betas(["chat-only", "chat-only", "other", "shared"], [0, 1], [0.95, 0.99, 0.7, 0.5]),
        write_active(tmp_path / "first.parquet", FIRST),
        "tokens",
    )
    second = PairTraining(
        "second",
        torch.cat([AXES[4:5], 0.1 * AXES[:1] + 0.001 * tilted, AXES[1:2], AXES[3:4]]),
        betas(["other", "chat-only", "dead", "shared"], [1, 2], [0.8, 0.97, 0.99, 0.5]),
        write_active(tmp_path / "second.parquet", SECOND),
        "tokens",
    )
    return first, second


def test_rows_of_two_pairs(pair: tuple[PairTraining, PairTraining]) -> None:
    forth, back = overlap(pair, top=2, settings=SeedAgreement())
    # Latents 0 and 1 are sought. Only 0 has a match, latent 1, since latent 2 there is dead.
    assert (forth["pair"], forth["other_pair"]) == ("first", "second")
    assert (forth["confirmed"], forth["matched"], forth["matched_confirmed"]) == (2, 1, 1)
    # The matches are high on tokens 0, 1 and 0, 1, 3: on 1 of 3 tokens the other is silent.
    assert forth["co_active"] == 1
    assert forth["median_co_activation"] == pytest.approx(2 / 3)
    # One shared latent each. They are high on token 0, and on 0 and 7. On token 7 the first has 1/5.
    assert (forth["control"], forth["control_matched"], forth["control_co_active"]) == (1, 1, 1)
    cosine = float(torch.cosine_similarity(pair[1].directions[1], AXES[0], dim=0))
    assert forth["median_cosine"] == pytest.approx((cosine + pair_cosine(pair)) / 2, abs=1e-6)
    assert (back["confirmed"], back["matched"], back["matched_confirmed"], back["co_active"]) == (1, 1, 1, 1)
    assert back["median_cosine"] == pytest.approx(cosine)
    assert set(forth) == set(COLUMNS) - {"layer", "crosscoder", "seed"}


def pair_cosine(pair: tuple[PairTraining, PairTraining]) -> float:
    """The largest cosine of latent 1 of the first with a live latent of the second: with latent 1, tilted."""
    return float(torch.cosine_similarity(pair[1].directions[1], AXES[1], dim=0))


def test_a_threshold_that_is_higher_leaves_out_matches(pair: tuple[PairTraining, PairTraining]) -> None:
    forth, _ = overlap(pair, top=2, settings=SeedAgreement(cosine_above=0.99999))
    assert (forth["matched"], forth["co_active"], forth["control_matched"]) == (0, 0, 1)
    assert math.isnan(forth["median_co_activation"])
    assert forth["median_cosine"] < 0.9


def test_other_token_shards_leave_co_activation_out(pair: tuple[PairTraining, PairTraining]) -> None:
    first, second = pair
    rows = overlap([first, second._replace(tokenizer="other", active="not there")], 2, SeedAgreement())
    assert [row["matched"] for row in rows] == [1, 1]
    for column in ("co_active", "median_co_activation", "control_co_active"):
        assert [row[column] for row in rows] == [None, None]


def test_three_pairs_give_six_rows_and_only_equal_tokens_are_read(
    pair: tuple[PairTraining, PairTraining],
) -> None:
    first, second = pair
    third = second._replace(pair="third", tokenizer="other", active="not there")
    rows = overlap([first, second, third], 2, SeedAgreement())
    co_active = {(row["pair"], row["other_pair"]): row["co_active"] for row in rows}
    assert co_active == {
        ("first", "second"): 1,
        ("first", "third"): None,
        ("second", "first"): 1,
        ("second", "third"): None,
        ("third", "first"): None,
        ("third", "second"): None,
    }


def test_no_confirmed_and_no_live_latent(pair: tuple[PairTraining, PairTraining]) -> None:
    first, second = pair
    nothing = first._replace(betas=first.betas.assign(confirmed=False))
    dead = second._replace(betas=betas(["dead"] * 4, [0, 1]))
    forth, back = overlap([nothing, dead], 2, SeedAgreement())
    assert (forth["confirmed"], forth["matched"], forth["control"], forth["control_matched"]) == (0, 0, 1, 0)
    assert (back["confirmed"], back["control"]) == (0, 0)
    assert math.isnan(forth["median_cosine"])


# The table


def training_files(folder: Path, number: int, **changes: object) -> TrainingFiles:
    """Write the files of a crosscoder with 4 latents, all confirmed. Equal numbers give equal crosscoders."""
    place = folder / str(number)
    paths = [str(place / name) for name in ("weights.safetensors", "config.json", "betas.parquet")]
    if not place.exists():
        place.mkdir()
        random_crosscoder(8, 4, seed=number).save(paths[0], paths[1], {})
        betas(["chat-only"] * 4, [0, 1, 2, 3]).to_parquet(paths[2])
        write_active(place / "active.parquet", FIRST)
    names = {"pair": "one", "layer": 3, "base": "base", "tokenizer": "t", "crosscoder": "l1", "seed": 0}
    return TrainingFiles(
        **names | changes, **dict(zip(FILES, [*paths, str(place / "active.parquet")], strict=True))
    )


FILES = ("weights", "config", "betas", "active")


def test_trainings_of_one_layer_crosscoder_seed_and_base_are_compared(tmp_path: Path) -> None:
    def of(number: int, **changes: object) -> TrainingFiles:
        return training_files(tmp_path, number, **changes)

    trainings = [
        of(0),
        of(1, crosscoder="batchtopk"),
        of(2, layer=2),
        of(0, pair="two"),
        of(3, pair="two", crosscoder="batchtopk"),
        of(2, pair="two", layer=2, tokenizer="other"),
        of(0, pair="two", seed=1),
        of(0, pair="three", base="another"),
    ]
    table = overlap_table(trainings, 4, SeedAgreement())
    assert tuple(table.columns) == COLUMNS
    keys = table[["layer", "crosscoder", "seed", "pair", "other_pair"]].to_numpy().tolist()
    assert keys == [
        [2, "l1", 0, "one", "two"],
        [2, "l1", 0, "two", "one"],
        [3, "l1", 0, "one", "two"],
        [3, "l1", 0, "two", "one"],
        [3, "batchtopk", 0, "one", "two"],
        [3, "batchtopk", 0, "two", "one"],
    ]
    # Equal crosscoders have all latents in common, others have none. Tokens of two tokenizers differ.
    assert table.matched.tolist() == [4, 4, 4, 4, 0, 0]
    lines = table.to_csv(index=False).splitlines()
    assert [line.split(",")[8] for line in lines[1:]] == ["", "", "4", "4", "0", "0"]


def test_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    for trainings in ([], [training_files(tmp_path, 0)]):
        assert overlap_table(trainings, 4, SeedAgreement()).to_csv(index=False) == ",".join(COLUMNS) + "\n"


# Which latents


@pytest.mark.parametrize("top", [1, 99])
def test_all_confirmed_latents_but_base_only_ones_are_looked_for(top: int) -> None:
    table = betas(
        ["dead", "chat-only", "chat-only", "chat-only", "other", "shared", "base-only"],
        [0, 1, 3, 4, 5, 6],
        [0.99, 0.9, 0.95, 0.91, 0.85, 0.5, 0.05],
    )
    assert looked_for(table, top).tolist() == [1, 3, 4, 5]


def test_control_is_the_one_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    table = classed(["shared"] * 20 + ["chat-only"] * 5 + ["dead"] * 3)
    drawn = shared_control(table, 7)
    assert len(set(drawn.latent)) == 7 and set(drawn["class"]) == {"shared"}
    assert len(shared_control(table, 99)) == 20
    monkeypatch.setattr(evaluation, "SAMPLE_SEED", 1)
    assert shared_control(table, 7).latent.tolist() != drawn.latent.tolist()


def test_number_confirmed_is_one_of_the_evaluation() -> None:
    scaling = scaling_table([0.95, 0.99, 0.85, 0.5, 0.97], [0.1, 0.1, 0.05, 1.0, 0.9], [0.1] * 5)
    fired = pd.DataFrame({"latent": range(5), "validation_active_tokens": 3})
    table = evaluation.beta_table(scaling, fired, Classes(), LatentScaling())
    quality = {"tokens": 8, "l0": 2.0, "fve_base": 0.8, "fve_chat": 0.7}
    for top in (1, 3, 4):
        found = evaluation.evaluate(table, quality, Classes(top=top))
        numbers = evaluation.comparison([found], [("l1", 0)])
        name = {"pair": "p", "layer": 3, "base": "b", "chat": "c", "tokenizer": "t"}
        row = pairs_table([numbers], [name]).iloc[0]
        assert row.others_confirmed == len(looked_for(table, top)) == 3


def test_pairs_stand_below_each_other_with_their_own_numbers() -> None:
    rows = {"others_confirmed": [2, 4], "l0": [4.5, 5.5]}
    table = pd.DataFrame({"crosscoder": ["batchtopk", "l1"], "seed": [0, 0]} | rows)
    names = [
        {"pair": pair, "layer": layer, "base": "b", "chat": pair, "tokenizer": "t"}
        for pair, layer in (("one", 8), ("one", 12), ("two", 8))
    ]
    found = pairs_table([table, table.assign(l0=9.0), table], names)
    assert found.columns.tolist()[:7] == [
        *("pair", "layer", "base", "chat", "tokenizer", "crosscoder", "seed"),
    ]
    assert found.pair.tolist() == ["one"] * 4 + ["two"] * 2
    assert found.layer.tolist() == [8, 8, 12, 12, 8, 8]
    assert found.others_confirmed.tolist() == [2, 4] * 3
    assert found.l0.tolist() == [4.5, 5.5, 9.0, 9.0, 4.5, 5.5]
    assert found.index.tolist() == list(range(6))


def test_search_takes_the_chat_directions_whatever_their_length(
    pair: tuple[PairTraining, PairTraining],
) -> None:
    first, second = pair
    found = search(first, second, np.array([3, 0]))
    assert found.nearest.tolist() == [3, 1]
    assert found.cosine == pytest.approx([1, 0.99997], abs=1e-5)
    assert found.above(0.99999).latent.tolist() == [3]


# Co-activation


def firing(*values: float, positions: list[int] | None = None) -> Firing:
    token = np.flatnonzero(values)
    return Firing(
        np.asarray(positions if positions is not None else range(len(values))),
        {0: Activity(token, np.asarray(values, float)[token])},
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (firing(1, 1, 0, 0), firing(8, 8, 0, 0), 1),  # the scale does not matter
        (firing(1, 1, 0, 0), firing(0, 0, 1, 1), 0),
        (firing(1, 1, 1, 0), firing(1, 0, 0, 1), 1 / 4),
        (firing(1, 1), firing(1, 0.3), 1),  # 0.3 is neither high nor low
        (firing(0, 0), firing(0, 0), math.nan),
        # Positions 0 and 9 are kept by one training alone. At 5 both fire, at 6 only one.
        (firing(1, 1, 1, positions=[0, 5, 6]), firing(1, 0, 1, positions=[5, 6, 9]), 1 / 2),
        # The largest activation lies where the other has no token.
        (firing(99, 1, 1, positions=[0, 5, 6]), firing(1, 1, positions=[5, 6]), 1),
    ],
)
def test_co_activation_of_two_latents(a: Firing, b: Firing, expected: float) -> None:
    match = Search(np.array([0]), np.array([0]), np.array([1.0]))
    assert co_activations(a, b, match) == pytest.approx([expected], nan_ok=True)
    assert co_activations(b, a, match) == pytest.approx([expected], nan_ok=True)


def test_tokens_that_one_pair_leaves_out_do_not_count(
    pair: tuple[PairTraining, PairTraining], tmp_path: Path
) -> None:
    """Without token 3 in one of the files, the matches are always strong together."""
    first, second = pair
    without = second._replace(active=write_active(tmp_path / "without.parquet", SECOND, without=3))
    for trainings in ((first, without), (without, first)):
        rows = overlap(trainings, 2, SeedAgreement())
        assert [row["median_co_activation"] for row in rows] == [1, 1]
