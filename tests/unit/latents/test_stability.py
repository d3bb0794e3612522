"""Stability over seeds of handmade latents, counted by hand."""

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossdiff.config import SeedAgreement
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.latents import stability as module
from crossdiff.latents.applies import DOES_NOT_APPLY, reason
from crossdiff.latents.stability import COLUMNS, CONFIRMED, LEANING, Live, between, live, stability, within

WIDTH = 6
AXES = torch.eye(WIDTH)
AGREEMENT = SeedAgreement(cosine_above=0.7)


def decoder_of(*chat: Tensor) -> Tensor:
    """Latents without a base direction."""
    return torch.stack([torch.stack([0 * direction, direction]) for direction in chat])


def rows_of(*trainings: tuple[Tensor, pd.DataFrame], top: int = 2) -> list[dict[str, Any]]:
    return stability([live(*training, top) for training in trainings], reason(trainings[0][1]), AGREEMENT)


DIFFERENCES = {"dead": 1.0, "shared": 0.5, "base-only": 0.02, "chat-only": 0.95}


def betas_of(classes: str, confirmed: str) -> pd.DataFrame:
    """A letter per latent: dead, shared, base-only or chat-only; and whether it is confirmed, y or n."""
    names = {"d": "dead", "s": "shared", "b": "base-only", "c": "chat-only"}
    table = pd.DataFrame({"latent": range(len(classes)), "class": [names[letter] for letter in classes]})
    table["relative_norm_difference"] = table["class"].map(DIFFERENCES)
    return table.assign(confirmed=[letter == "y" for letter in confirmed])


# Latents 1 and 2 nearly are one, 3 mirrors 0, and 4 (dead) would double 0. 5 is another and not confirmed.
FIRST = decoder_of(AXES[0], AXES[1], AXES[1] + 0.1 * AXES[2], -AXES[0], AXES[0], AXES[3])
OF_FIRST = betas_of("ccsbdc", "yyyyyn")
# The second seed has 0, shrunk, as chat-only, 1 as chat-only, and 3 as shared.
SECOND = decoder_of(0.2 * AXES[0], 3 * AXES[1], AXES[3], AXES[4])
OF_SECOND = betas_of("ccbc", "yyyy")


def test_sets_are_places_among_live_latents() -> None:
    found = live(FIRST, OF_FIRST, top=2)
    assert found.directions.shape == (5, 2 * WIDTH)
    assert found.sets[CONFIRMED].tolist() == [0, 1, 2]
    assert found.sets[LEANING].tolist() == [0, 1]  # of equal ones the first


def test_doubled_and_mirrored_latents_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    found = within(live(FIRST, OF_FIRST, top=2))
    assert found[CONFIRMED] == {"latents": 3, "doubled": 2 / 3, "mirrored": 1 / 3}
    assert found[LEANING] == {"latents": 2, "doubled": 1 / 2, "mirrored": 1 / 2}


def test_recurring_and_split_latents_are_counted() -> None:
    a, b = between(live(FIRST, OF_FIRST, 2), live(SECOND, OF_SECOND, 2), AGREEMENT)
    # Both 1 and 2 are nearest to the second's 1, which is nearest to 1.
    assert a[CONFIRMED] == {"recurring": 2 / 3, "split": 2 / 3}
    assert b[CONFIRMED] == {"recurring": 2 / 3, "split": 0}  # its latent 3 is nowhere
    assert a[LEANING] == {"recurring": 1, "split": 0}


def test_rows_are_means_over_seeds_with_intervals() -> None:
    rows = rows_of((FIRST, OF_FIRST), (SECOND, OF_SECOND))
    row = rows[0]
    assert {"crosscoder", *row} == set(COLUMNS)
    assert (row["set"], row["seeds"], row["latents"]) == (CONFIRMED, 2, 3)
    assert row["recurring"] == row["recurring_low"] == row["recurring_high"] == pytest.approx(2 / 3)
    assert (row["split"], row["doubled"], row["mirrored"]) == pytest.approx((1 / 3, 1 / 3, 1 / 6))
    assert 0 <= row["split_low"] < 1 / 3 < row["split_high"] <= 1
    assert rows[1]["set"] == LEANING


def test_a_seed_without_such_latents_does_not_count() -> None:
    none = betas_of("cccsdc", "nnnnnn")
    row, _ = rows_of((FIRST, OF_FIRST), (FIRST, none))
    assert row["latents"] == 1.5 and row["doubled"] == pytest.approx(2 / 3)
    assert row["recurring"] == 0 and math.isnan(row["recurring_low"])
    row, _ = rows_of((FIRST, none), (FIRST, none))
    assert row["latents"] == 0 and math.isnan(row["doubled"])
    dead = betas_of("dddddd", "yyyyyy")
    row, leaning = rows_of((FIRST, OF_FIRST), (FIRST, dead))
    assert math.isnan(row["recurring"]) and leaning["latents"] == 1


def test_without_a_base_decoder_nothing_is_confirmed() -> None:
    betas = betas_of("cccsdc", "yyyyyn").assign(
        mean_activation=1.0, frequency=0.1, norm_chat=[6, 5, 4, 3, 2, 1]
    )
    betas["class"] = betas["class"].where(betas["class"] == "dead", None)
    betas = betas.assign(confirmed=pd.array([pd.NA] * 6, "boolean"), **{DOES_NOT_APPLY: "no base"})
    confirmed, leaning = rows_of((FIRST, betas), (FIRST, betas), top=3)
    assert confirmed[DOES_NOT_APPLY] == "no base" and confirmed["latents"] is confirmed["recurring"] is None
    assert (leaning["latents"], leaning["recurring"], leaning["doubled"]) == (3, 1, pytest.approx(2 / 3))
    assert DOES_NOT_APPLY not in leaning


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_shares_equal_those_of_the_whole_matrix(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sides = [
        torch.nn.functional.normalize(torch.randn(size, 3, generator=generator), dim=1) for size in (n, m)
    ]
    chosen = [np.flatnonzero(np.arange(size) % 3 < 2) for size in (n, m)]
    a, b = (Live(side, {"some": places}) for side, places in zip(sides, chosen, strict=True))
    found, _ = between(a, b, AGREEMENT)
    cosines = (sides[0] @ sides[1].T).numpy()
    to_b, to_a = cosines.argmax(axis=1), cosines.argmax(axis=0)
    near = [i for i in chosen[0] if cosines[i].max() > AGREEMENT.cosine_above]
    recurring = [i for i in near if to_a[to_b[i]] == i and to_b[i] in chosen[1]]
    split = [i for i in near if any(to_b[i] == to_b[j] for j in near if j != i)]
    expected = {"recurring": len(recurring) / len(chosen[0]), "split": len(split) / len(chosen[0])}
    assert found["some"] == pytest.approx(expected)
    own = (sides[0] @ sides[0].T).numpy() - 2 * np.eye(n)  # a latent itself is at -1 for the largest
    doubled = np.mean([own[i].max() > 0.9 for i in chosen[0]])
    assert within(a)["some"]["doubled"] == pytest.approx(doubled)


@pytest.mark.parametrize("seeds", [1, 2])
def test_script_writes_a_row_per_crosscoder_and_set(tmp_path: Path, seeds: int) -> None:
    script = runpy.run_path(str(ROOT / "workflow_scripts/compare_seeds.py"))
    trainings = []
    for name, (decoder, betas) in {"a": (FIRST, OF_FIRST), "b": (SECOND, OF_SECOND)}.items():
        paths = [str(tmp_path / f"{name}.{file}") for file in ("safetensors", "json", "parquet")]
        crosscoder = Crosscoder(WIDTH, len(decoder), layer=0)
        with torch.no_grad():
            crosscoder.decoder.copy_(decoder)
        crosscoder.save(paths[0], paths[1], {})
        betas.to_parquet(paths[2])
        trainings += [script["SeedFiles"](name, seed, *paths) for seed in range(seeds)]
    tables = [str(tmp_path / f"{table}.csv") for table in ("agreement", "stability")]
    script["main"](trainings, 2, AGREEMENT, *tables)
    agreement, stable = map(pd.read_csv, tables)
    assert list(stable.columns) == list(COLUMNS)
    assert len(agreement) == 2 * (seeds - 1) and len(stable) == 2 * 2 * (seeds - 1)
    if seeds > 1:
        confirmed = stable[stable.set == CONFIRMED].set_index("crosscoder")
        assert confirmed.recurring.to_dict() == {"a": 1, "b": 1}  # both seeds are the same
        assert confirmed.split.to_dict() == {"a": 0, "b": 0}
        assert confirmed.doubled.to_dict() == {"a": pytest.approx(2 / 3), "b": 0}
