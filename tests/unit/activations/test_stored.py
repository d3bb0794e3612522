"""Activations that others stored give the caches that a harvest gives, or are refused in one line."""

import json
import os
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_stores import write_store
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from crossdiff.activations.cache import read_header, read_rows, tokens_digest
from crossdiff.activations.harvest import harvest_shard
from crossdiff.activations.stored import (
    Store,
    check_unchanged,
    describe,
    find_sequences,
    read_stored,
    tokens_of,
)
from crossdiff.errors import UserError
from crossdiff.models.forward import run_to_layer
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.hashing import content
from crossdiff.provenance.records import Record, RecordedFile, write_record
from crossdiff.texts.shards import Shard

LAYER, WIDTH, BOS, KEY = 1, 16, 1, "datasets.x.activations.train.tiny"
LENGTHS = (5, 17, 2, 9, 17, 1, 12)


def model_of(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture
def model() -> LlamaForCausalLM:
    """Three random blocks in float64, so that the order of sums can't show after rounding."""
    return model_of()


def sequences_of(lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Random ids, each after BOS, which appears nowhere else."""
    draw = np.random.default_rng(seed)
    return [np.r_[BOS, draw.integers(2, 128, length - 1)].astype(np.int32) for length in lengths]


def shard_of(sequences: Sequence[np.ndarray]) -> Shard:
    token = np.concatenate(sequences)
    lengths = [len(sequence) for sequence in sequences]
    position = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    flags = np.zeros(len(token), np.int8)
    return Shard(token, np.repeat(np.arange(len(lengths)) + 70, lengths), position, flags, flags)


def run(model: LlamaForCausalLM, sequences: Sequence[np.ndarray], layer: int = LAYER) -> torch.Tensor:
    """The activations of each sequence, run alone."""
    return torch.cat([run_to_layer(model, torch.from_numpy(ids).long()[None], layer)[0] for ids in sequences])


def read(model: LlamaForCausalLM, shard: Shard, folder: Path) -> torch.Tensor:
    """Read a shard from a store, and give what its cache holds."""
    cache = folder.parent / "read.h5"
    read_stored(model, shard, Store.open(folder, describe(folder, WIDTH)), cache, LAYER, KEY)
    assert read_header(cache)[:4] == (LAYER, WIDTH, len(shard.token), tokens_digest(shard.token))
    return read_rows(cache, 0, len(shard.token))


def refusal(model: LlamaForCausalLM, shard: Shard, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        read(model, shard, folder)
    assert not list(folder.parent.glob("*.h5")) and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_activations_give_the_cache_that_a_harvest_gives(model, tmp_path, dtype, ranges):
    """The store has the sequences in another order among others, and one of them spans three shards."""
    mine, others = sequences_of(LENGTHS), sequences_of((3, 8), seed=9)
    mixed = [others[0], *reversed(mine), others[1]]
    folder = write_store(tmp_path / "layer_1_out", mixed, run(model, mixed), dtype, rows=7, ranges=ranges)
    shard = shard_of(mine)
    found = read(model, shard, folder)
    harvest_shard(model, shard, {LAYER: tmp_path / "harvested.h5"}, batch_tokens=40)
    harvested = read_rows(tmp_path / "harvested.h5", 0, len(shard.token))
    if dtype is torch.float16:  # rounded twice
        torch.testing.assert_close(found, harvested, rtol=2**-7, atol=1e-4)
    else:
        assert torch.equal(found, harvested)


def test_sequence_that_was_cut_takes_the_first_rows_of_the_whole_one(model, tmp_path):
    """The longest are cut at the context, and the last one where the shard is full."""
    whole = sequences_of((30, 6, 25, 10))
    folder = write_store(tmp_path / "layer_1_out", whole, run(model, whole))
    cut = [whole[0][:20], whole[1], whole[2][:20], whole[3][:4]]
    assert torch.equal(read(model, shard_of(cut), folder), run(model, cut).to(torch.bfloat16))


@given(data=st.data())
def test_sequences_are_found_where_they_stand(data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=12))
    ids = data.draw(st.lists(st.integers(0, 2), min_size=sum(lengths), max_size=sum(lengths)))
    stored, bounds = np.array(ids, np.int32), np.cumsum([0, *lengths])
    wanted = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6))
    starts = np.cumsum([0, *map(len, wanted)])[:-1]
    ours = np.array([token for sequence in wanted for token in sequence], np.int32)
    found = find_sequences(ours, starts, stored, bounds)
    whole = [ids[start:stop] for start, stop in pairwise(bounds.tolist())]
    for sequence, row in zip(wanted, found.tolist(), strict=True):
        if row < 0:
            assert sequence not in whole
        else:
            assert row in bounds[:-1] and ids[row : row + len(sequence)] == sequence
            assert len(sequence) <= lengths[bounds.tolist().index(row)]


def test_tokens_that_the_base_reads_replaced_are_found_as_it_read_them(tmp_path):
    mine = sequences_of(LENGTHS)
    replaced = [np.where(ids == (before := int(mine[0][2])), 5, ids) for ids in mine]
    model = with_replacements(model_of(), {before: 5})
    folder = write_store(tmp_path / "layer_1_out", replaced, run(model, replaced))
    assert torch.equal(read(model, shard_of(mine), folder), run(model, mine).to(torch.bfloat16))


def test_token_ids_may_lie_in_the_folder_of_the_layer(model, tmp_path):
    mine = sequences_of(LENGTHS)
    folder = write_store(tmp_path / "layer_1_out", mine, run(model, mine))
    (tmp_path / "tokens.pt").rename(folder / "tokens.pt")
    assert tokens_of(folder).tolist() == np.concatenate(mine).tolist()
    assert describe(folder, WIDTH) == {
        "dtype": "float32",
        "d_model": WIDTH,
        "rows": [20, 20, 20, 3],
        "sequences": None,
    }


def test_sequences_that_the_store_lacks_are_counted(model, tmp_path):
    mine, others = sequences_of(LENGTHS), sequences_of((4, 6), seed=9)
    folder = write_store(tmp_path / "layer_1_out", mine, run(model, mine))
    said = refusal(model, shard_of([mine[0], others[0], mine[1], others[1]]), folder)
    assert said.startswith(
        f"{KEY}: 2 of 4 sequences are not in the store, the first in row 5 of the token shard (document 71), "
        "allowed: 1%, on which the model runs; take the texts, tokens.context"
    )


def test_the_model_runs_on_one_sequence_in_a_hundred_that_the_store_lacks(model, tmp_path, caplog):
    mine = sequences_of([4 + number % 5 for number in range(100)])
    stored = [*mine[:40], *mine[41:]]
    folder = write_store(tmp_path / "layer_1_out", stored, run(model, stored))
    shard = shard_of(mine)
    with caplog.at_level("INFO"):
        found = read(model, shard, folder)
    assert "1 of 100 sequences are not in the store; the model runs on these" in caplog.messages
    assert torch.equal(found, run(model, mine).to(torch.bfloat16))


@pytest.mark.parametrize("wrong", ["layer", "model", "rows"])
def test_activations_that_are_not_the_models_are_refused(model, tmp_path, wrong):
    mine = sequences_of(LENGTHS)
    values = {
        "layer": lambda: run(model, mine, layer=2),
        "model": lambda: run(model_of(1), mine),
        "rows": lambda: run(model, mine).roll(1, 0),
    }[wrong]()
    said = refusal(model, shard_of(mine), write_store(tmp_path / "layer_1_out", mine, values))
    assert f"{KEY}: differs from the model's own activations by" in said
    assert "allowed: 0.05" in said and "another model, layer or precision was stored" in said


def test_one_wrong_sequence_among_few_is_seen(model, tmp_path):
    mine = sequences_of(LENGTHS)
    values = run(model, mine)
    values[33:50] = values[33:50].flip(0)  # the second of 17
    said = refusal(model, shard_of(mine), write_store(tmp_path / "layer_1_out", mine, values))
    assert "from row 33 of the store" in said


def test_precision_of_another_machine_passes(model, tmp_path):
    mine = sequences_of(LENGTHS)
    values = run(model, mine)
    values *= 1 + 0.02 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    folder = write_store(tmp_path / "layer_1_out", mine, values)
    assert torch.equal(read(model, shard_of(mine), folder), values.float().to(torch.bfloat16))


def test_value_that_is_not_finite_is_refused(model, tmp_path):
    mine = sequences_of(LENGTHS)
    values = run(model, mine)
    values[3, 2] = torch.inf  # one of five tokens: the median of their differences does not show it
    said = refusal(model, shard_of(mine), write_store(tmp_path / "layer_1_out", mine, values))
    assert said == f"{KEY}: row 3 of the store is NaN or infinite; leave it out and harvest"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"shuffle_shards": True},
            "shuffle_shards: found True, allowed: False, because otherwise their",
        ),
        (
            {"store_tokens": False},
            "store_tokens: found False, allowed: True, because otherwise nothing",
        ),
        ({"io": "in"}, "io: found 'in', allowed: 'out'"),
        ({"d_model": 8}, "d_model: found 8, allowed: 16, the model's width"),
        ({"shard_count": None}, "shard_count: found None, allowed: a number from 1 on"),
        ({"total_size": 62}, "found 63 rows, 63 ids in tokens.pt, total_size 62, allowed: three equal"),
        ({"shard_count": 3}, "found 60 rows, 63 ids in tokens.pt, total_size 63, allowed: three equal"),
        ({"shard_count": 5}, "shard_4.meta: no such file"),
    ],
)
def test_config_that_says_another_store_is_refused(tmp_path, config, said):
    mine = sequences_of(LENGTHS)
    folder = write_store(tmp_path / "layer_1_out", mine, torch.ones(63, WIDTH), **config)
    with pytest.raises(UserError) as refused:
        describe(folder, WIDTH)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (
            {"dtype": "torch.float64"},
            "shard_1.meta: dtype: found 'float64', allowed: float32, float16, bf",
        ),
        ({"shape": [20, 8]}, "shard_1.meta: shape: found [20, 8], allowed: [rows, 16]"),
        (
            {"shape": [21, 16]},
            "shard_1.memmap: found 1,280 bytes, allowed: 1,344 (shard_1.meta); copy it",
        ),
        ({"dtype": "torch.float16"}, "shard_1.memmap: found 1,280 bytes, allowed: 640 (shard_1.meta)"),
    ],
)
def test_shard_that_is_not_as_its_meta_says_is_refused(tmp_path, meta, said):
    folder = write_store(tmp_path / "layer_1_out", sequences_of(LENGTHS), torch.ones(63, WIDTH))
    path = folder / "shard_1.meta"
    path.write_text(json.dumps(json.loads(path.read_text()) | meta))
    with pytest.raises(UserError) as refused:
        describe(folder, WIDTH)
    assert said in str(refused.value)


def test_shards_of_two_types_are_refused(tmp_path):
    folder = write_store(tmp_path / "layer_1_out", sequences_of(LENGTHS), torch.ones(63, WIDTH))
    torch.ones(20, WIDTH).half().numpy().tofile(folder / "shard_1.memmap")
    (folder / "shard_1.meta").write_text(json.dumps({"shape": [20, WIDTH], "dtype": "float16"}))
    with pytest.raises(UserError, match="found shards of the types float32, float16, float32"):
        describe(folder, WIDTH)


def test_meta_without_a_type_is_of_float32(tmp_path):
    folder = write_store(tmp_path / "layer_1_out", sequences_of(LENGTHS), torch.ones(63, WIDTH))
    for path in folder.glob("*.meta"):
        path.write_text(json.dumps({"shape": json.loads(path.read_text())["shape"]}))
    assert describe(folder, WIDTH)["dtype"] == "float32"


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("tokens.pt", b"broken", "tokens.pt: can't be read as a tensor"),
        ("tokens.pt", torch.ones(63), "tokens.pt: found [63], allowed: a tensor of whole numbers"),
        ("tokens.pt", torch.ones(7, 9).long(), "tokens.pt: found [7, 9], allowed: a tensor of whole numbers"),
        ("sequence_ranges.pt", torch.tensor([0, 5, 60]), "found 0 to 60, allowed: the rows where sequences"),
        ("sequence_ranges.pt", torch.tensor([0, 9, 5, 63]), "sequence_ranges.pt: found 0 to 63, allowed"),
    ],
)
def test_token_ids_and_ranges_that_can_not_be_are_refused(tmp_path, name, written, said):
    folder = write_store(tmp_path / "layer_1_out", sequences_of(LENGTHS), torch.ones(63, WIDTH), ranges=True)
    if isinstance(written, bytes):
        (tmp_path / name).write_bytes(written)
    else:
        torch.save(written, tmp_path / name)
    with pytest.raises(UserError) as refused:
        describe(folder, WIDTH)
    assert said in str(refused.value)


def test_store_without_ranges_needs_one_first_token(model, tmp_path):
    mine = sequences_of(LENGTHS)
    folder = write_store(tmp_path / "layer_1_out", mine, run(model, mine))
    said = refusal(model, shard_of([mine[0], mine[1][1:]]), folder)
    assert f"{KEY}: found no sequence_ranges.pt" in said and "2 different first tokens" in said


def test_store_whose_first_tokens_were_left_out_is_refused(model, tmp_path):
    mine = sequences_of(LENGTHS[:5])
    without = [ids[1:] for ids in mine]
    folder = write_store(tmp_path / "layer_1_out", without, torch.ones(45, WIDTH))
    said = refusal(model, shard_of(mine), folder)
    assert f"{KEY}: found a store that begins with token {without[0][0]}, allowed: {BOS}" in said


def test_file_that_changed_since_it_was_checked_is_refused(tmp_path):
    """A copy with the same time passes: its inode says nothing."""
    folder = write_store(tmp_path / "layer_1_out", sequences_of(LENGTHS), torch.ones(63, WIDTH))
    shard, described = folder / "shard_1.memmap", tmp_path / "store.json"
    read = [RecordedFile.of("files", str(shard), content(shard))]
    write_record(described, Record("1" * 32, "check_store", {}, {}, {}, read, [], {}))
    check_unchanged(described)
    shutil.copy2(shard, tmp_path / "copy")
    (tmp_path / "copy").replace(shard)
    check_unchanged(described)
    os.utime(shard, (1, 1))
    with pytest.raises(UserError) as refused:
        check_unchanged(described)
    assert str(refused.value) == f"{shard}: changed since it was checked; remove {described} and run again"
