"""Directions of latents against plain arithmetic: the logit lens, neighbours, recurrences."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_latents import classed
from torch.nn.functional import cosine_similarity
from transformers import LlamaConfig, LlamaForCausalLM

from crossdiff.latents import directions as module
from crossdiff.latents.directions import (
    RECURRENCE_COLUMNS,
    Live,
    live,
    neighbours,
    recurrences,
)
from crossdiff.models import logit_lens
from crossdiff.models.logit_lens import promoted_tokens

WIDTH = 16


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for blocks in (module, logit_lens):
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 3)


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    made = LlamaForCausalLM(config).eval()
    torch.nn.init.uniform_(made.model.norm.weight, 0.5, 2.0)  # a norm that does more than divide
    return made


def found_of(directions: torch.Tensor, latents: list[int] | None = None) -> Live:
    return Live(np.arange(len(directions)) if latents is None else np.array(latents), directions)


def test_lens_is_the_models_final_norm_and_head(small_blocks: None) -> None:
    chat, directions = model(), torch.randn(8, WIDTH)
    found = promoted_tokens(chat, directions, count=4)
    normed = directions * torch.rsqrt(directions.square().mean(dim=1, keepdim=True)) * chat.model.norm.weight
    logits = (normed @ chat.lm_head.weight.T).detach().numpy()
    logits -= logits.mean(axis=1, keepdims=True)
    assert len(found) == 8
    for row, expected in zip(found.itertuples(), logits, strict=True):
        order = np.argsort(expected)
        assert row.promoted.tolist() == order[::-1][:4].tolist()
        assert row.suppressed.tolist() == order[:4].tolist()
        np.testing.assert_allclose(row.promoted_by, expected[order[::-1][:4]], rtol=1e-4)
        np.testing.assert_allclose(row.suppressed_by, expected[order[:4]], rtol=1e-4)


@pytest.mark.parametrize("factor", [7, 1e-3])
def test_length_of_a_direction_says_nothing(factor: float) -> None:
    chat, directions = model(), torch.randn(5, WIDTH)
    one, other = promoted_tokens(chat, directions), promoted_tokens(chat, factor * directions)
    assert [row.tolist() for row in one.promoted] == [row.tolist() for row in other.promoted]
    np.testing.assert_allclose(np.stack(one.promoted_by), np.stack(other.promoted_by), rtol=1e-3)


def test_direction_of_length_0_promotes_nothing() -> None:
    """The head would give ten tokens for a latent that the chat model does not have."""
    directions = torch.randn(3, WIDTH)
    directions[1] = 0
    found = promoted_tokens(model(), directions)
    assert found.notna().all(axis=1).tolist() == [True, False, True]
    assert found.loc[1].isna().all() and len(found.promoted[2]) == 10


def test_neighbours_are_the_largest_cosines_and_never_the_latent_itself(small_blocks: None) -> None:
    directions = torch.randn(10, WIDTH)
    found = neighbours(found_of(directions, list(range(5, 15))), count=3)
    cosines = cosine_similarity(directions[:, None], directions[None], dim=2).numpy()
    np.fill_diagonal(cosines, -2)
    for place, row in enumerate(found.itertuples()):
        order = np.argsort(-cosines[place])[:3]
        assert (row.latent, row.near.tolist()) == (place + 5, (order + 5).tolist())
        np.testing.assert_allclose(row.near_cosine, cosines[place][order], rtol=1e-5)


@pytest.mark.parametrize("latents", [0, 1, 2])
def test_few_latents_have_few_neighbours(latents: int) -> None:
    found = neighbours(found_of(torch.randn(latents, WIDTH)), count=5)
    assert [len(near) for near in found.near] == [latents - 1] * latents


def test_dead_latents_are_left_out() -> None:
    decoder = torch.randn(4, 2, WIDTH)
    found = live(decoder, classed(["shared", "dead", "chat-only", "dead"]))
    assert found.latents.tolist() == [0, 2]
    torch.testing.assert_close(found.directions, decoder[[0, 2]].reshape(2, 2 * WIDTH))


def test_permuted_training_recurs_in_every_latent() -> None:
    directions, order = torch.randn(12, WIDTH), torch.randperm(12)
    trainings = {
        ("l1", 0): found_of(directions),
        ("l1", 1): found_of(directions[order], list(range(100, 112))),
        ("b", 0): found_of(-directions),
    }
    found = recurrences(trainings, 0.7)
    assert all(tuple(table.columns) == RECURRENCE_COLUMNS for table in found.values())
    there = found["l1", 0][found["l1", 0].seed == 1]
    assert (there.other.to_numpy() - 100).tolist() == order.argsort().tolist()
    assert there.matched.all()
    np.testing.assert_allclose(there.cosine, 1, rtol=1e-5)
    back = found["l1", 1].query("crosscoder == 'l1'").set_index("latent").other
    assert back[there.other].tolist() == there.latent.tolist()
    assert found["b", 0].crosscoder.tolist() == ["l1"] * 24
    assert not found["b", 0].matched.any()


def test_match_is_mutual_and_above_the_bound() -> None:
    one = found_of(torch.tensor([[1.0, 0.0], [0.9, 0.2]]))
    other = found_of(torch.tensor([[1.0, 0.05], [-1.0, 0.0]]))
    table = recurrences({("a", 0): one, ("b", 0): other}, 0.9)["a", 0]
    assert table.other.tolist() == [0, 0]
    assert table.matched.tolist() == [True, False]  # both are nearest to 0, which is nearest to one of them
    assert not recurrences({("a", 0): one, ("b", 0): other}, 0.9999)["a", 0].matched.any()


def test_nothing_to_compare_gives_no_rows() -> None:
    alone = recurrences({("a", 0): found_of(torch.randn(3, WIDTH))}, 0.7)
    beside_dead = recurrences(
        {("a", 0): found_of(torch.randn(3, WIDTH)), ("b", 0): found_of(torch.empty(0, WIDTH))}, 0.7
    )
    for table in (alone["a", 0], *beside_dead.values()):
        assert isinstance(table, pd.DataFrame)
        assert (len(table), tuple(table.columns)) == (0, RECURRENCE_COLUMNS)
