"""Reconstruction quality, classes and headline numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import random_crosscoder
from helpers_codes import encoded
from helpers_tables import scaling_table

from crossdiff.config import Classes, LatentScaling
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.quality import reconstruction_quality
from crossdiff.errors import UserError
from crossdiff.latents.evaluation import (
    beta_table,
    classify,
    comparison,
    confirmed_latents,
    evaluate,
    most_chat_leaning,
    plausible,
    ranked_by_scaling,
)

WIDTH, LATENTS = 6, 12
QUALITY = {"tokens": 1000, "l0": 4.0, "fve_base": 0.8, "fve_chat": 0.7}
FLAGS = ("complete_shrinkage", "latent_decoupling", "shrinkage_and_decoupling")
VERDICTS = (
    "confirmed",
    "confirmed_95",
    "median_nu_error",
    "median_nu_reconstruction",
    "inside_shared",
    "median_control_beta_error",
)
HEADLINES = {
    "latents",
    "classes",
    "base_only_confirmed",
    "others_confirmed",
    "undefined_ratios",
    "implausible_ratios",
    "largest_norm_difference",
    "correlation_nu_error",
    "correlation_nu_reconstruction",
    "top",
    "top_smallest_norm_difference",
} | {f"{name}_{verdict}" for name in ("chat_only", "top", "shared") for verdict in VERDICTS}
HEADLINES |= {f"{name}_{flag}" for name in ("chat_only", "top") for flag in FLAGS}


def betas(
    difference: list[float], fired: list[int], nu_error: list[float], nu_reconstruction: list[float]
) -> pd.DataFrame:
    scaling = scaling_table(difference, nu_error, nu_reconstruction)
    counts = pd.DataFrame({"latent": range(len(fired)), "validation_active_tokens": fired})
    return beta_table(scaling, counts, Classes(), LatentScaling())


@pytest.fixture
def table() -> pd.DataFrame:
    """Latents 0-2 are chat-only (confirmed, not, undefined), 4 shared, 5 base-only, 6 other, 3 and 7 dead.

    Latent 3 would be chat-only if it fired.
    """
    nan = float("nan")
    return betas(
        difference=[0.95, 0.93, 0.99, 1.0, 0.5, 0.02, 0.7, 0.5],
        fired=[9, 9, 9, 0, 9, 9, 9, 0],
        nu_error=[0.1, 0.4, nan, nan, 1.0, 1.1, 0.05, nan],
        nu_reconstruction=[0.3, 0.1, 0.1, nan, 1.0, 0.9, 0.2, nan],
    )


# Reconstruction


@pytest.fixture
def crosscoder() -> Crosscoder:
    crosscoder = random_crosscoder(WIDTH, LATENTS).requires_grad_(False)
    crosscoder.threshold.fill_(0.5)
    crosscoder.encoder_bias[2] = -100
    return crosscoder


def test_quality_equals_its_formula_over_all_tokens(crosscoder: Crosscoder) -> None:
    """Blocks differ in mean and size, so the mean of the blocks' own values would be another number."""
    raw = torch.randn(500, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    raw[:30] += 4
    quality, fired = reconstruction_quality(crosscoder, encoded(crosscoder, raw.split([30, 400, 70])))
    x = crosscoder.normalise(raw)
    codes = crosscoder.encode(x)
    error = (x - crosscoder.decode(codes)).double()
    explained = 1 - error.var(dim=0).sum(dim=1) / x.double().var(dim=0).sum(dim=1)
    assert quality["tokens"] == 500
    assert quality["fve_base"] == pytest.approx(explained[0].item(), rel=1e-5)
    assert quality["fve_chat"] == pytest.approx(explained[1].item(), rel=1e-5)
    assert quality["l0"] == pytest.approx((codes > 0).sum().item() / 500)
    assert fired.tolist() == (codes > 0).sum(dim=0).tolist()
    assert fired[2] == 0


def test_constant_shift_of_the_reconstruction_costs_no_variance(crosscoder: Crosscoder) -> None:
    raw = torch.randn(100, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    before, _ = reconstruction_quality(crosscoder, encoded(crosscoder, [raw]))
    crosscoder.decoder_bias += 5
    after, _ = reconstruction_quality(crosscoder, encoded(crosscoder, [raw]))
    assert after["fve_base"] == pytest.approx(before["fve_base"], rel=1e-4)


@pytest.mark.parametrize("tokens", [0, 1])
def test_too_few_validation_tokens_are_refused(crosscoder: Crosscoder, tokens: int) -> None:
    said = (
        rf"^datasets: found {tokens} validation tokens that count, allowed: 2 or more; "
        rf"raise validation_tokens, or loosen [^\n]*$"
    )
    with pytest.raises(UserError, match=said):
        reconstruction_quality(crosscoder, encoded(crosscoder, [torch.randn(1, 2, WIDTH)] * tokens))


# Classes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("difference", "name"),
    [
        (0.0, "base-only"),
        (0.1, "base-only"),
        (0.11, "other"),
        (0.39, "other"),
        (0.4, "shared"),
        (0.5, "shared"),
        (0.6, "shared"),
        (0.61, "other"),
        (0.89, "other"),
        (0.9, "chat-only"),
        (1.0, "chat-only"),
    ],
)
def test_class_borders_belong_to_the_named_classes(difference: float, name: str, dtype: type) -> None:
    assert classify(np.array([difference], dtype), np.array([1]), Classes()).tolist() == [name]


@pytest.mark.parametrize("difference", [0.0, 0.5, 0.7, 1.0])
def test_latent_that_did_not_fire_is_dead_whatever_its_norms(difference: float) -> None:
    assert classify(np.array([difference]), np.array([0]), Classes()).tolist() == ["dead"]


@pytest.mark.parametrize(
    ("nu_error", "nu_reconstruction", "confirmed", "shrunk", "decoupled"),
    [
        (0.1, 0.3, True, False, False),
        (-0.1, -0.1, True, False, False),
        (-0.11, 0.3, False, False, False),
        (0.1, -0.5, False, False, False),
        (0.2, 0.3, False, True, False),
        (0.1, 0.5, False, False, True),
        (0.3, 0.9, False, True, True),
        (float("nan"), 0.1, False, False, False),
        (0.1, float("nan"), False, False, False),
        (0.3, float("nan"), False, True, False),
    ],
)
def test_verdicts_of_latent_scaling(
    nu_error: float, nu_reconstruction: float, confirmed: bool, shrunk: bool, decoupled: bool
) -> None:
    row = betas([0.95], [1], [nu_error], [nu_reconstruction]).iloc[0]
    assert [row.confirmed, row.complete_shrinkage, row.latent_decoupling] == [confirmed, shrunk, decoupled]


def test_base_only_latents_are_judged_by_mirrored_ratios() -> None:
    table = betas([0.02, 0.02, 0.5], [9, 9, 9], [1.0, 0.1, 1.0], [1.0, 0.1, 1.0])
    assert table.confirmed.tolist() == [True, False, False]
    assert table.complete_shrinkage.tolist() == [False, True, pd.NA]


def test_only_latents_that_claim_to_be_specific_show_shrinkage_or_decoupling() -> None:
    """The borders 0.1, 0.4 and 0.6 are those of base-only and shared latents."""
    differences = [0.1, 0.11, 0.4, 0.6, 0.61, 0.9]
    table = betas(differences, [9] * 6, [0.5] * 6, [0.9] * 6)
    claims = [True, pd.NA, pd.NA, pd.NA, True, True]
    assert table.complete_shrinkage.tolist() == claims
    # The mirrored ratio of the first one, 1 - 0.9, is small.
    assert table.latent_decoupling.tolist() == [False, *claims[1:]]


def test_counts_of_flags_say_how_many_show_both() -> None:
    table = betas([0.95, 0.94, 0.93, 0.92], [9] * 4, [0.1, 0.4, 0.4, 0.1], [0.1, 0.1, 0.9, 0.9])
    found = evaluate(table, QUALITY, Classes())
    for name in ("chat_only", "top"):
        assert [found[f"{name}_{flag}"] for flag in ("confirmed", *FLAGS)] == [1, 2, 2, 1]


def test_confirmed_latents_are_all_listed_the_most_chat_leaning_first() -> None:
    table = betas([0.3, 0.95, 0.02, 0.7, 0.99], [9, 9, 9, 9, 0], [0.1, 0.1, 1.0, 0.9, 0.1], [0.1] * 5)
    table.loc[2, "confirmed"] = True
    assert confirmed_latents(table).latent.tolist() == [1, 0, 2]  # 3 is not confirmed, 4 is dead
    assert evaluate(table, QUALITY, Classes())["others_confirmed"] == 2


@pytest.mark.parametrize(
    ("half_width", "expected"), [(0.05, [True, False, False]), (0.2, [False, False, False])]
)
def test_confirmed_with_certainty_needs_the_whole_interval_in_range(
    half_width: float, expected: list[bool]
) -> None:
    counts = pd.DataFrame({"latent": [0, 1, 2], "validation_active_tokens": 9})
    scaling = scaling_table([0.95] * 3, [0.1, 0.18, -0.08], [0.3] * 3, half_width)
    table = beta_table(scaling, counts, Classes(), LatentScaling())
    assert table.confirmed.tolist() == [True, True, True]
    assert table.confirmed_95.tolist() == expected


def test_base_only_latents_with_implausibly_low_mirrored_ratios_are_not_confirmed() -> None:
    assert betas([0.02, 0.02], [9, 9], [1.05, 1.5], [1.05, 1.05]).confirmed.tolist() == [True, False]


def test_beta_table_joins_by_latent_and_not_by_row() -> None:
    counts = pd.DataFrame({"latent": [1, 0], "validation_active_tokens": [7, 0]})
    table = beta_table(scaling_table([0.95, 0.5], [0.1, 0.1], [0.1, 0.1]), counts, Classes(), LatentScaling())
    assert table.validation_active_tokens.tolist() == [0, 7]
    assert table["class"].tolist() == ["dead", "shared"]


def test_plausible_ratios_are_defined_and_in_range() -> None:
    nan = float("nan")
    table = betas([0.5] * 5, [9] * 5, [1.0, 2.1, -0.2, nan, 0.0], [1.0, 1.0, 1.0, 1.0, 2.5])
    assert plausible(table).latent.tolist() == [0]
    found = evaluate(table, QUALITY, Classes())
    assert (found["undefined_ratios"], found["implausible_ratios"]) == (1, 3)


def test_control_is_a_random_sample_of_shared_latents_as_large_as_the_top() -> None:
    """Shared latents have ratios from .5 to 1.5.

    A chat-leaning set with ratios of 1 lies inside their central 95 %, and one with ratios of 0 does not.
    """
    n = 200
    ratios = np.linspace(0.5, 1.5, n)
    for ratio, inside in ((1.0, 1.0), (0.0, 0.0)):
        table = betas(
            [0.5] * n + [0.95] * 20, [9] * (n + 20), [*ratios, *[ratio] * 20], [*ratios, *[ratio] * 20]
        )
        found = evaluate(table, QUALITY, Classes(top=20))
        assert found["top_inside_shared"] == found["chat_only_inside_shared"] == inside
        assert 0.7 < found["shared_median_nu_reconstruction"] < 1.3
        assert found["shared_confirmed"] == 0
        assert found["shared_inside_shared"] > 0.8
        assert found["shared_median_control_beta_error"] == pytest.approx(0.01)


def test_correlation_with_the_norm_difference_has_its_sign() -> None:
    difference = np.linspace(0, 1, 50)
    found = evaluate(
        betas(list(difference), [9] * 50, list(1 - difference), list(difference)), QUALITY, Classes()
    )
    assert found["correlation_nu_error"] == pytest.approx(-1)
    assert found["correlation_nu_reconstruction"] == pytest.approx(1)


# Ranks and headline numbers


def test_most_chat_leaning_are_live_strongest_first_and_ties_by_number() -> None:
    table = betas([0.7, 0.9, 1.0, 0.9, 0.2], [1, 1, 0, 1, 1], [0.1] * 5, [0.1] * 5).iloc[::-1]
    assert most_chat_leaning(table, 3).latent.tolist() == [1, 3, 0]
    assert most_chat_leaning(table, 10).latent.tolist() == [1, 3, 0, 4]


def test_evaluation_counts_classes_and_confirmations(table: pd.DataFrame) -> None:
    found = evaluate(table, QUALITY, Classes(top=4))
    assert set(found) == HEADLINES | set(QUALITY)
    assert found["classes"] == {"base-only": 1, "shared": 1, "chat-only": 3, "other": 1, "dead": 2}
    assert found["latents"] == 8
    assert found["chat_only_confirmed"] == 1
    assert found["undefined_ratios"] == 1  # dead latents are not counted
    assert found["largest_norm_difference"] == pytest.approx(0.99)
    assert (found["top"], found["top_confirmed"]) == (4, 2)  # latents 2, 0, 1, 6
    assert found["top_smallest_norm_difference"] == pytest.approx(0.7)
    assert found["top_median_nu_error"] == pytest.approx(0.1)  # of 0.1, 0.4, 0.05
    assert found["top_median_nu_reconstruction"] == pytest.approx(0.15)


@pytest.mark.parametrize("fired", [9, 0], ids=["no chat-only", "all dead"])
def test_evaluation_without_chat_only_latents_has_the_same_keys(fired: int) -> None:
    nan = float("nan")
    found = evaluate(betas([0.5, 0.6], [fired] * 2, [nan] * 2, [nan] * 2), QUALITY, Classes())
    assert set(found) == HEADLINES | set(QUALITY)
    assert found["classes"]["chat-only"] == found["chat_only_confirmed"] == found["top_confirmed"] == 0
    assert found["top"] == (2 if fired else 0)
    assert found["top_median_nu_error"] is None
    assert (found["largest_norm_difference"] is None) == (fired == 0)
    json.dumps(found, allow_nan=False)


def test_comparison_has_one_row_per_crosscoder_and_seed(table: pd.DataFrame) -> None:
    empty = betas([0.5], [0], [float("nan")], [float("nan")])
    evaluations = [evaluate(part, QUALITY, Classes()) for part in (table, empty)]
    rows = comparison(evaluations, [("batchtopk", 0), ("l1", 1)])
    own = {"crosscoder", "seed", "base_only", "shared", "chat_only", "other", "dead"}
    assert set(rows) == HEADLINES - {"classes"} | set(QUALITY) | own
    assert rows[["crosscoder", "seed", "chat_only", "dead", "chat_only_confirmed"]].to_numpy().tolist() == [
        ["batchtopk", 0, 3, 2, 1],
        ["l1", 1, 0, 1, 0],
    ]


# Ranks


def test_rank_by_latent_scaling_goes_by_the_sum_of_both_ranks(table: pd.DataFrame) -> None:
    # latents 0, 1, 4, 5, 6: ranks of nu_error 2 3 4 5 1, of nu_reconstruction 3 1 5 4 2
    assert ranked_by_scaling(table).latent.tolist() == [6, 1, 0, 4, 5]
    assert list(ranked_by_scaling(table).columns) == list(table.columns)


def test_ratios_outside_of_the_range_have_no_rank() -> None:
    table = betas(
        [0.5] * 5, [9] * 5, nu_error=[0.5, -0.11, 2.1, -0.1, 2.0], nu_reconstruction=[2.1, 0.5, 0.5, 0.5, 0.6]
    )
    assert ranked_by_scaling(table).latent.tolist() == [3, 4]
