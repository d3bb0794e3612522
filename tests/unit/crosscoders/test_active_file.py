"""The file of active entries gives back what went in, bit for bit and group by group, and damage is seen."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers_activations import everything, random_activations, random_crosscoder, token_shard, write_pair
from helpers_codes import active_file

from crossdiff.activations import pairs
from crossdiff.activations.pairs import PairedActivations
from crossdiff.crosscoders import active_file as module
from crossdiff.crosscoders import encoding
from crossdiff.crosscoders.active_file import SCHEMA, ActiveFile, active_writer
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError

WIDTH, LATENTS = 4, 6
LENGTHS = ([7, 1, 12, 3, 9], [5, 20, 2])


@pytest.fixture
def crosscoder() -> Crosscoder:
    made = random_crosscoder(WIDTH, LATENTS, seed=3).requires_grad_(False)
    made.threshold.fill_(1.0)
    return made


@pytest.fixture
def activations(tmp_path: Path) -> PairedActivations:
    shards = [
        write_pair(tmp_path, str(n), random_activations(sum(part), WIDTH, seed=n), part)
        for n, part in enumerate(LENGTHS)
    ]
    return PairedActivations(shards, everything(shards))


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
@pytest.mark.parametrize("chunk", [5, 2048])
def test_what_is_stored_is_what_was_encoded_to_the_bit(
    tmp_path: Path,
    crosscoder: Crosscoder,
    activations: PairedActivations,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    at_once: int,
) -> None:
    monkeypatch.setattr(pairs, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", at_once)
    expected = [part.active for part in encode(crosscoder, activations.blocks())]
    file = ActiveFile(active_file(tmp_path / "active.parquet", crosscoder, activations))
    found = list(file)
    assert np.array_equal(
        np.concatenate([part.value for part in found]), torch.cat([part.values for part in expected]).numpy()
    )
    assert np.array_equal(
        np.concatenate([part.latent for part in found]),
        torch.cat([part.latents for part in expected]).numpy(),
    )
    counts = torch.cat([torch.bincount(part.rows, minlength=part.shape[0]) for part in expected])
    assert np.concatenate([np.diff(part.bounds) for part in found]).tolist() == counts.tolist()
    assert file.tokens == sum(map(sum, LENGTHS))
    for number, lengths in enumerate(LENGTHS):
        assert np.concatenate([part.rows for part in found if part.shard == number]).tolist() == list(
            range(sum(lengths))
        )
    assert [part.shard for part in found] == [file.shard(group) for group in range(file.groups)]
    assert len(found) == 2 if at_once == 10**6 else len(found) > 2  # a group per shard, or more
    starts = [set(np.cumsum([0, *lengths]).tolist()) for lengths in LENGTHS]
    # no sequence is cut
    assert all({part.rows[0], part.rows[-1] + 1} <= starts[part.shard] for part in found)


def test_positions_name_tokens_by_shard_and_row(tmp_path: Path) -> None:
    path = tmp_path / "active.parquet"
    with active_writer(path, [token_shard([3]), token_shard([2, 4])]) as writer:
        for shard, rows in ((0, [1, 2]), (1, [0, 3, 5])):
            writer.add(
                shard, np.array(rows), np.zeros(len(rows), int), np.zeros(0, np.int32), np.zeros(0, "f4")
            )
    found = ActiveFile(path).positions()
    assert found.tolist() == [1, 2, 2**40, 2**40 + 3, 2**40 + 5]
    assert found.dtype == np.int64


def test_first_tokens_of_a_group(
    tmp_path: Path, crosscoder: Crosscoder, activations: PairedActivations
) -> None:
    whole = ActiveFile(active_file(tmp_path / "active.parquet", crosscoder, activations)).read(0)
    part = whole.first(9)
    assert part.rows.tolist() == list(range(9)) and len(part.bounds) == 10
    assert len(part.value) == len(part.latent) == part.bounds[-1] < len(whole.value)


def test_a_gpu_gets_several_blocks_of_a_shard_at_once(
    activations: PairedActivations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "CHUNK_ROWS", 5)
    blocks = list(activations.blocks())
    joined = list(encoding._joined(blocks, 12))
    assert [(block.shard, len(block.rows)) for block in joined] == [
        (0, 15),
        (0, 15),
        (0, 2),
        (1, 15),
        (1, 12),
    ]
    assert torch.equal(*(torch.cat([block.activations for block in part]) for part in (joined, blocks)))
    for name in ("documents", "rows"):
        assert np.array_equal(
            *(np.concatenate([getattr(block, name) for block in part]) for part in (joined, blocks))
        ), name


def test_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        active_writer(tmp_path / "active.parquet", [token_shard([3])]) as writer,
    ):
        writer.add(0, np.arange(3), np.array([1, 0, 1]), np.array([2, 2], np.int32), np.ones(2, np.float32))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_goes_wrong_while_writing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(OSError, match="no more"),
        active_writer(tmp_path / "active.parquet", [token_shard([3])]) as writer,
    ):

        def fail(*arguments: object, **options: object) -> None:
            raise OSError("no more")

        monkeypatch.setattr(writer.file, "write_batch", fail)
        writer.add(0, np.arange(3), np.array([1, 0, 1]), np.array([2, 2], np.int32), np.ones(2, np.float32))
    assert not list(tmp_path.iterdir())


def test_tokens_without_active_latents(tmp_path: Path) -> None:
    path = tmp_path / "active.parquet"
    with active_writer(path, [token_shard([3]), token_shard([2])]) as writer:
        writer.add(1, np.arange(2), np.zeros(2, int), np.zeros(0, np.int32), np.zeros(0, np.float32))
    [found] = ActiveFile(path)
    assert (found.shard, found.rows.tolist(), found.bounds.tolist(), len(found.value)) == (
        1,
        [0, 1],
        [0, 0, 0],
        0,
    )


def test_damaged_file_names_its_path(
    tmp_path: Path, crosscoder: Crosscoder, activations: PairedActivations
) -> None:
    path = active_file(tmp_path / "active.parquet", crosscoder, activations)
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(1)
    column = group.column(3)
    path.write_bytes(flipped(whole, column.data_page_offset + column.total_compressed_size - 3))
    file = ActiveFile(path)
    file.read(0)
    with pytest.raises(UserError, match=rf"{path}: row group 1 is damaged \("):
        file.read(1)
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=f"{path}: not a whole Parquet file"):
        ActiveFile(path)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"shard": [1]}), path)
    with pytest.raises(
        UserError,
        match=rf"{path}: not a file of active entries \(columns \['shard'\], allowed: \['{SCHEMA.names[0]}'",
    ):
        ActiveFile(path)
