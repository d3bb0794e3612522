"""What each method hands in, against tables and activations worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from crossdiff.config import LatentScaling
from crossdiff.organisms import items
from crossdiff.organisms.items import (
    Handed,
    MeanDifference,
    at_random,
    by_norm,
    by_scaling,
    densest,
    in_turns,
    of_directions,
    table_of_items,
)
from crossdiff.texts.formats import ROLES

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")


EQUAL = {"norm_chat": [1.0] * 5, "mean_activation": [1.0] * 5, "frequency": [0.1] * 5}


def betas(**columns: list) -> pd.DataFrame:
    table = pd.DataFrame({"latent": range(5), "class": ["other", "dead", "other", "chat-only", "other"]})
    return table.assign(**columns)


def test_largest_norm_differences_without_dead_latents() -> None:
    table = betas(relative_norm_difference=[0.5, 1.0, 0.7, 0.9, 0.7], **EQUAL)
    assert by_norm(table).items.tolist() == [3, 2, 4, 0]


def test_without_base_decoder_the_mean_contribution_counts() -> None:
    """2 x 1 x .1, 1 x 3 x .1, 5 x 1 x .01 and 1 x 1 x 0 of the live ones."""
    table = betas(
        does_not_apply="no base decoder",
        norm_chat=[2.0, 9, 1, 5, 1],
        mean_activation=[1.0, 9, 3, 1, 1],
        frequency=[0.1, 1, 0.1, 0.01, 0],
    )
    assert by_norm(table).items.tolist() == [2, 0, 3, 4]
    assert by_scaling(table, LatentScaling()) == (pytest.approx([]), [], "no base decoder")


def test_equal_norm_differences_are_ordered_by_contribution() -> None:
    """A loss that holds a decoder at zero gives all of its class a difference of 1."""
    table = betas(
        relative_norm_difference=[1.0, 1.0, 1.0, 0.9, 1.0],
        norm_chat=[2.0, 9, 1, 5, 1],
        mean_activation=[1.0, 9, 3, 1, 1],
        frequency=[0.1, 1, 0.1, 0.9, 0],
    )
    assert by_norm(table).items.tolist() == [2, 0, 4, 3]
    assert densest(table).items.tolist() == [3, 0, 2, 4]


def test_scaling_takes_the_worse_of_both_ratios_over_their_thresholds() -> None:
    """Over .2 and .5: 0 has 1 and .2, 2 has .5 and .8, 3 has -.25 and .1, 4 is undefined."""
    table = betas(nu_error=[0.2, 0, 0.1, -0.05, np.nan], nu_reconstruction=[0.1, 0, 0.4, 0.05, 0.1])
    assert by_scaling(table, LatentScaling()).items.tolist() == [3, 2, 0]


def test_ratio_far_below_zero_is_left_out() -> None:
    table = betas(nu_error=[-0.2, 0, 0.3, np.nan, 0.1], nu_reconstruction=[0.0, 0, 0, 0, -0.11])
    assert by_scaling(table, LatentScaling()).items.tolist() == [2]
    none = betas(nu_error=[np.nan] * 5, nu_reconstruction=[0.0] * 5)
    assert by_scaling(none, LatentScaling()).why_not == "no latent has defined nu ratios"


def test_a_crosscoder_without_live_latents_says_so() -> None:
    dead = betas(relative_norm_difference=[0.5] * 5, **EQUAL)[1:2]
    for found in (by_norm(dead), densest(dead), at_random(dead, 0)):
        assert not len(found.items) and found.why_not == "no latent fires on held-out text"


def test_random_latents_are_live_and_always_the_same() -> None:
    chosen = at_random(betas(), 3).items
    assert sorted(chosen) == [0, 2, 3, 4] and chosen.tolist() == at_random(betas(), 3).items.tolist()


def test_mean_difference_of_each_place() -> None:
    """Two rows at place 0 with differences (1, 0) and (3, 2), one at place 2, one beyond all places."""
    block = torch.zeros(4, 2, 2)
    block[:, 1] = torch.tensor([[1.0, 0], [3, 2], [5, 5], [9, 9]])
    found = MeanDifference(2)
    found.add(block, np.array([0, 0, 2, 10]))
    assert found.directions().tolist() == [[2.0, 1.0], [5.0, 5.0]]


def test_models_without_a_promoted_token_give_the_reason() -> None:
    assert Handed.of_tokens(np.arange(12)).items.tolist() == list(range(10))
    table = table_of_items({("diff mining", "", 0): Handed.of_tokens(np.zeros(0, int))})
    assert table[["rank", "item", "not_scored"]].to_numpy().tolist() == [
        [0, -1, "the chat model promotes no token"]
    ]


def test_method_without_items_has_one_row_with_the_reason() -> None:
    table = table_of_items(
        {
            ("norm", "l1", 0): Handed.of_latents(np.array([7, 3])),
            ("scaling", "d", 1): Handed.of_latents(np.zeros(0, int), "no base decoder"),
        }
    )
    assert table.to_numpy().tolist() == [
        ["norm", "l1", 0, "latent", 1, 7, ""],
        ["norm", "l1", 0, "latent", 2, 3, ""],
        ["scaling", "d", 1, "", 0, -1, "no base decoder"],
    ]


def test_directions_in_turns_with_both_signs() -> None:
    attention, mlp = torch.eye(4), 10 * torch.eye(4)
    numbers = in_turns(attention, mlp) @ torch.tensor([1.0, 2, 3, 4])
    assert numbers.tolist() == [1, -1, 10, -10, 2, -2, 20, -20, 3, -3]
    assert (in_turns(attention[:0], mlp) @ torch.ones(4)).tolist() == [10, -10] * 4
    assert in_turns(attention[:0], mlp[:0]).shape == (0, 4)


def test_a_method_without_directions_says_why() -> None:
    assert Handed.of_rows(20, 3, "").items.tolist() == [20, 21, 22]
    found = of_directions({items.FIRST: torch.ones(2, 4), items.WEIGHTS: torch.ones(3, 4)})
    assert [found[name].items.tolist() for name in found] == [[0, 1], [2, 3, 4]]
    assert not any(handed.why_not for handed in found.values())
    none = of_directions(dict.fromkeys((items.FIRST, items.WEIGHTS), torch.zeros(0, 4)))
    assert [handed.why_not for handed in none.values()] == [items.NO_PLACE, items.NO_CHANGE]


def test_half_of_two_methods_in_turns() -> None:
    latents, rows = Handed.of_latents(np.arange(7)), Handed.of_rows(20, 3, "")
    both = latents.with_half_of(rows)
    assert both.items.tolist() == [0, 20, 1, 21, 2, 22, 3, 4]
    assert both.kinds == ["latent", "direction"] * 3 + ["latent"] * 2
    nothing = latents.with_half_of(Handed.of_rows(20, 0, "nothing changed"))
    assert (len(nothing.items), nothing.kinds, nothing.why_not) == (0, [], "nothing changed")
