"""Harvesting: the order and size of batches change nothing in what is stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import token_shard
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from crossdiff.activations.cache import read_header, read_rows, tokens_digest
from crossdiff.activations.harvest import harvest, harvest_shard, length_batches
from crossdiff.errors import UserError

LAYER = 1
LENGTHS = (5, 17, 2, 9, 17, 1, 30)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """Three random blocks in float64, so that the order of sums can't show after rounding to bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).double().eval()


def each_alone(model: LlamaForCausalLM, ids: np.ndarray, lengths: tuple[int, ...]) -> torch.Tensor:
    """The full model on one sequence after the other, without padding."""
    parts = []
    with torch.inference_mode():
        for sequence in np.split(ids, np.cumsum(lengths)[:-1]):
            output = model(torch.from_numpy(sequence).long()[None], output_hidden_states=True)
            parts.append(output.hidden_states[LAYER + 1][0])
    return torch.cat(parts).to(torch.bfloat16)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), batch_tokens=st.integers(1, 200))
def test_length_batches_hold_every_sequence_once_within_the_padded_budget(lengths: list[int], batch_tokens: int) -> None:
    starts = np.cumsum([0, *lengths[:-1]])
    groups = list(length_batches(starts, sum(lengths), batch_tokens))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= batch_tokens


def test_length_batches_begin_with_the_longest_sequences() -> None:
    groups = list(length_batches(np.array([0, 2, 10, 15]), 18, batch_tokens=10))
    assert [group.tolist() for group in groups] == [[1], [2, 3], [0]]  # lengths 2, 8, 5, 3


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_harvest_equals_each_sequence_run_alone(llama: LlamaForCausalLM, batch_tokens: int) -> None:
    shard = token_shard(LENGTHS)
    assert torch.equal(harvest(llama, shard, LAYER, batch_tokens), each_alone(llama, shard.token, LENGTHS))


def test_rows_follow_the_shard_when_its_sequences_change_places(llama: LlamaForCausalLM) -> None:
    shard = token_shard([3, 8, 5])
    moved = np.r_[11:16, 0:3, 3:11]  # the last sequence first
    swapped = type(shard)(*(column[moved] for column in shard))
    assert torch.equal(harvest(llama, swapped, LAYER, 20), harvest(llama, shard, LAYER, 20)[moved])


def test_harvest_shard_writes_the_cache_of_these_tokens(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    shard = token_shard(LENGTHS)
    harvest_shard(llama, shard, LAYER, 40, tmp_path / "0000.base.h5")
    header = read_header(tmp_path / "0000.base.h5")
    assert (header.layer, header.d_model, header.rows) == (LAYER, 16, sum(LENGTHS))
    assert header.tokens_sha256 == tokens_digest(shard.token)
    assert torch.equal(read_rows(tmp_path / "0000.base.h5", 0, header.rows), harvest(llama, shard, LAYER, 40))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_activations_are_refused_with_row_and_document(llama: LlamaForCausalLM, tmp_path: Path, value: float) -> None:
    shard = token_shard([4, 6, 3], first_document=50)
    with torch.no_grad():
        llama.model.embed_tokens.weight[shard.token[4]] = value  # the first of the second sequence's six tokens
    with pytest.raises(UserError, match=r"^6 of 13 tokens .* layer 1, the first in row 4 \(document 51, position 0\)$"):
        harvest_shard(llama, shard, LAYER, 100, tmp_path / "0000.base.h5")
    assert list(tmp_path.iterdir()) == []
