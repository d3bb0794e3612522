"""Harvesting stores the same for any order and size of batches."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_activations import token_shard
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from crossdiff.activations import harvest as harvest_module
from crossdiff.activations.cache import read_header, read_rows, tokens_digest
from crossdiff.activations.harvest import batch_of, harvest_shard, length_batches, windows
from crossdiff.errors import UserError
from crossdiff.texts.shards import Shard

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


def harvest(folder: Path, model: LlamaForCausalLM, shard: Shard, batch_tokens: int) -> torch.Tensor:
    """Harvest a shard and give what its cache holds."""
    harvest_shard(model, shard, {LAYER: folder / "harvested.h5"}, batch_tokens)
    return read_rows(folder / "harvested.h5", 0, len(shard.token))


def each_alone(model: LlamaForCausalLM, ids: np.ndarray, lengths: tuple[int, ...]) -> torch.Tensor:
    """Run the full model on one sequence after the other, without padding."""
    parts = []
    with torch.inference_mode():
        for sequence in np.split(ids, np.cumsum(lengths)[:-1]):
            output = model(torch.from_numpy(sequence).long()[None], output_hidden_states=True)
            parts.append(output.hidden_states[LAYER + 1][0])
    return torch.cat(parts).to(torch.bfloat16)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), batch_tokens=st.integers(1, 200))
def test_length_batches_hold_every_sequence_once_within_the_padded_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    groups = list(length_batches(np.array(lengths), batch_tokens))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= batch_tokens


def test_length_batches_begin_with_the_longest_sequences() -> None:
    groups = list(length_batches(np.array([2, 8, 5, 3]), batch_tokens=10))
    assert [group.tolist() for group in groups] == [[1], [2, 3], [0]]


@pytest.mark.parametrize("window", [1, 20, 2**20])
@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_harvest_equals_each_sequence_run_alone(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, window: int
) -> None:
    monkeypatch.setattr(harvest_module, "WINDOW", window)
    shard = token_shard(LENGTHS)
    assert torch.equal(harvest(tmp_path, llama, shard, batch_tokens), each_alone(llama, shard.token, LENGTHS))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    batch_tokens=st.integers(1, 200),
    window=st.integers(1, 200),
)
def test_windows_hold_every_row_once_in_the_shards_order(
    lengths: list[int], batch_tokens: int, window: int
) -> None:
    shard = token_shard(lengths)
    starts, stops = shard.sequence_bounds()
    done = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvest_module, "WINDOW", window)
        for part in windows(shard, batch_tokens):
            rows = np.concatenate(
                [batch_of(shard.token, starts[group], (stops - starts)[group]).rows for group in part.groups]
            )
            assert sorted(rows.tolist()) == list(range(done, part.stop))
            assert part.stop - done < window + 40
            done = part.stop
    assert done == sum(lengths)


def test_batch_names_where_its_tokens_are(llama: LlamaForCausalLM) -> None:
    shard = token_shard([2, 3, 1])
    ids, places, rows = batch_of(shard.token, np.array([2, 5, 0]), np.array([3, 1, 2]))
    token = shard.token.tolist()
    assert ids.tolist() == [token[2:5], [token[5], 0, 0], [*token[:2], 0]]
    assert rows.tolist() == list(range(6))
    assert places.tolist() == [6, 7, 0, 1, 2, 3]


def test_rows_follow_the_shard_when_its_sequences_change_places(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    shard = token_shard([3, 8, 5])
    moved = np.r_[11:16, 0:3, 3:11]  # the last sequence first
    swapped = type(shard)(*(column[moved] for column in shard))
    assert torch.equal(harvest(tmp_path, llama, swapped, 20), harvest(tmp_path, llama, shard, 20)[moved])


def test_harvest_shard_writes_the_cache_of_these_tokens(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    shard = token_shard(LENGTHS)
    harvest_shard(llama, shard, {LAYER: tmp_path / "0000.base.h5"}, 40)
    header = read_header(tmp_path / "0000.base.h5")
    assert (header.layer, header.d_model, header.rows) == (LAYER, 16, sum(LENGTHS))
    assert header.tokens_sha256 == tokens_digest(shard.token)
    np.testing.assert_array_equal(header.norm, each_alone(llama, shard.token, LENGTHS).float().norm(dim=1))


@pytest.mark.parametrize("window", [20, 2**20])
def test_caches_of_one_pass_have_the_bytes_of_those_of_separate_passes(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(harvest_module, "WINDOW", window)
    shard = token_shard(LENGTHS)
    harvest_shard(llama, shard, {2: tmp_path / "deep.h5", 0: tmp_path / "first.h5"}, 40)
    for layer, name in ((2, "deep.h5"), (0, "first.h5")):
        harvest_shard(llama, shard, {layer: tmp_path / "alone.h5"}, 40)
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone.h5").read_bytes()
        assert read_header(tmp_path / name).layer == layer
    assert (tmp_path / "deep.h5").read_bytes() != (tmp_path / "first.h5").read_bytes()


def test_one_pass_runs_each_block_once_for_all_layers(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    ran = []
    for number, block in enumerate(llama.model.layers):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    harvest_shard(llama, token_shard(LENGTHS), {0: tmp_path / "a.h5", 1: tmp_path / "b.h5"}, 10_000)
    assert ran == [0, 1]


def test_batches_that_are_not_stored_yet_are_few(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device waits where storing is slow: memory stays bounded."""
    ran, stored, most = 0, 0, 0
    run, store = harvest_module.run_to_layers, harvest_module._store

    def counted_run(*arguments: Any) -> list[torch.Tensor]:
        nonlocal ran, most
        ran += 1
        most = max(most, ran - stored)
        return run(*arguments)

    def slow_store(*arguments: Any) -> None:
        nonlocal stored
        time.sleep(0.01)
        store(*arguments)
        stored += 1

    monkeypatch.setattr(harvest_module, "run_to_layers", counted_run)
    monkeypatch.setattr(harvest_module, "_store", slow_store)
    harvest(tmp_path, llama, token_shard([4] * 30), 4)
    assert ran == stored == 30
    assert 1 < most <= harvest_module.AHEAD + 1


def test_bad_activations_end_the_harvest_with_their_window(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest_module, "WINDOW", 10)
    shard = token_shard([4, 6, 10, 10], first_document=50)
    with torch.no_grad():
        llama.model.embed_tokens.weight[shard.token[10]] = float("nan")
    with pytest.raises(
        UserError, match=r"^10 of 20 tokens .* the first in row 10 \(document 52, position 0\)$"
    ):
        harvest(tmp_path, llama, shard, 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_activations_are_refused_with_row_and_document(
    llama: LlamaForCausalLM, tmp_path: Path, value: float
) -> None:
    shard = token_shard([4, 6, 3], first_document=50)
    with torch.no_grad():
        llama.model.embed_tokens.weight[shard.token[4]] = (
            value  # the first of the second sequence's six tokens
        )
    with pytest.raises(
        UserError, match=r"^6 of 13 tokens .* layer 1, the first in row 4 \(document 51, position 0\)$"
    ):
        harvest_shard(llama, shard, {LAYER: tmp_path / "0000.base.h5"}, 100)
    assert list(tmp_path.iterdir()) == []


def test_bad_activations_of_one_layer_of_several_name_it_and_leave_no_cache(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    with torch.no_grad():
        llama.model.layers[2].mlp.down_proj.weight.fill_(float("nan"))
    caches = {layer: tmp_path / f"{layer}.h5" for layer in (0, 2, 1)}
    with pytest.raises(UserError, match=r"^13 of 13 tokens .* at layer 2, the first in row 0 "):
        harvest_shard(llama, token_shard([4, 6, 3]), caches, 100)
    assert list(tmp_path.iterdir()) == []
