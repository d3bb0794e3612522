"""Pools of token pairs: what batches hold, on any device and in any number of processes; threads end."""

import hashlib
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers_activations import paired, random_activations, write_pair
from torch import Tensor

from crossdiff.activations import pairs, pools
from crossdiff.activations.pairs import PairedActivations, summarise
from crossdiff.activations.pools import InMainMemory, Piece, batches, plan, read_ahead
from crossdiff.config import Activations
from crossdiff.errors import UserError

WIDTH = 4
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen rows per chunk, so that little data has many."""
    for module in (pairs, pools):
        monkeypatch.setattr(module, "CHUNK_ROWS", 16)


def numbered(folder: Path, *rows: int, skip_first: int = 0) -> PairedActivations:
    """Shards whose activations name their token: shard and row for the base model, the negative for chat."""
    shards = []
    for number, n_rows in enumerate(rows):
        row = torch.arange(n_rows)
        base = torch.stack([torch.full_like(row, number), row // 128, row % 128], dim=1)
        shards.append(
            write_pair(folder, f"{number:04d}", torch.stack([base, -base], dim=1), [10] * (n_rows // 10))
        )
    return PairedActivations(shards, summarise(shards, Activations(skip_first=skip_first)))


def names(batches: Iterator[Tensor] | list[Tensor]) -> list[tuple[int, int]]:
    """(shard, row) of every token of ``numbered`` batches; both models must name the same."""
    found = []
    for batch in batches:
        assert torch.equal(batch[:, 1], -batch[:, 0])
        shard, high, low = batch[:, 0].int().unbind(1)
        found += list(zip(shard.tolist(), (high * 128 + low).tolist(), strict=True))
    return found


@pytest.mark.parametrize("buffer_tokens", [1, 100, 10_000])
def test_every_kept_token_comes_once_per_epoch(
    tmp_path: Path, small_chunks: None, buffer_tokens: int
) -> None:
    activations = numbered(tmp_path, 100, 60, 160, skip_first=1)
    every = [(shard, row) for shard, rows in enumerate([100, 60, 160]) for row in range(rows) if row % 10]
    batches = activations.shuffled_batches(24, buffer_tokens, seed=0)  # 288 kept tokens: 12 batches an epoch
    first, second = names(islice(batches, 12)), names(islice(batches, 12))
    assert sorted(first) == sorted(second) == every
    assert first != second


def test_tokens_that_fill_no_batch_are_left_out_of_an_epoch_others_in_each(
    tmp_path: Path, small_chunks: None
) -> None:
    activations = numbered(tmp_path, 60, 40)
    batches = activations.shuffled_batches(32, 50, seed=0)
    every = {(shard, row) for shard, rows in enumerate([60, 40]) for row in range(rows)}
    left = []
    for _ in range(8):
        epoch = names(islice(batches, 3))
        assert len(set(epoch)) == len(epoch)
        left.append(frozenset(every - set(epoch)))
    assert {len(tokens) for tokens in left} == {4}
    assert len(set(left)) > 4


@pytest.mark.parametrize("buffer_tokens", [1, 64, 200])
@pytest.mark.parametrize("start", [1, 5, 29, 30, 47])
def test_batches_from_a_later_start_are_those_of_the_whole_run(
    tmp_path: Path, small_chunks: None, buffer_tokens: int, start: int
) -> None:
    activations = numbered(tmp_path, 300, 290)
    whole = [
        names([batch])
        for batch in islice(activations.shuffled_batches(20, buffer_tokens, seed=0), start + 10)
    ]
    resumed = [
        names([batch])
        for batch in islice(activations.shuffled_batches(20, buffer_tokens, seed=0, start=start), 10)
    ]
    assert resumed == whole[start:]


def test_order_depends_on_the_seed_alone(tmp_path: Path, small_chunks: None) -> None:
    activations = numbered(tmp_path, 100, 100)

    def order(seed: int) -> list[tuple[int, int]]:
        return names(islice(activations.shuffled_batches(16, 100, seed), 30))

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_batches_mix_tokens_of_all_shards(tmp_path: Path, small_chunks: None) -> None:
    activations = numbered(tmp_path, 200, 200, 200)
    for batch in islice(activations.shuffled_batches(50, 600, seed=0), 12):
        shares = Counter(shard for shard, _ in names([batch]))
        assert len(shares) == 3
        assert max(shares.values()) < 35  # 17 expected; a run of neighbours would be 50


def test_a_buffer_smaller_than_the_data_still_mixes_shards(tmp_path: Path, small_chunks: None) -> None:
    activations = numbered(tmp_path, 320, 320)
    mixed = [
        len({shard for shard, _ in names([batch])}) == 2
        for batch in islice(activations.shuffled_batches(32, 160, seed=0), 20)
    ]
    assert sum(mixed) >= 15


def test_batch_larger_than_all_kept_tokens_is_refused(tmp_path: Path) -> None:
    activations = numbered(tmp_path, 20, 20, skip_first=1)
    with pytest.raises(UserError, match="batch 37 is larger than the 36 tokens that are kept"):
        next(activations.shuffled_batches(37, 1000, seed=0))
    assert len(next(activations.shuffled_batches(36, 1000, seed=0))) == 36


@pytest.mark.parametrize(
    ("buffer_tokens", "first", "digest"),
    [
        (
            64,
            [(1, 182), (0, 114), (1, 262), (0, 245)],
            "c046c10d433e80bafc83f0c614ca5401e5c6eea981743f6145f6496f3c071e86",
        ),
        (
            200,
            [(0, 47), (0, 178), (1, 157), (0, 9)],
            "f08a27fa61f5d23f046744d13e64b693a606cc22cc23809d8bfffe82aa28fc0d",
        ),
    ],
)
def test_order_is_that_of_release_0_1(
    tmp_path: Path, small_chunks: None, buffer_tokens: int, first: list[tuple[int, int]], digest: str
) -> None:
    """A training by an older release can be resumed and repeated: batches 0, 11, 40 and 79, and all to 79."""
    activations = numbered(tmp_path, 300, 290, 40, skip_first=2)
    found = [names([batch]) for batch in islice(activations.shuffled_batches(20, buffer_tokens, seed=5), 80)]
    assert [found[number][0] for number in (0, 11, 40, 79)] == first
    assert hashlib.sha256(repr(found).encode()).hexdigest() == digest


# Reading them


def kept(activations: PairedActivations) -> list[np.ndarray]:
    return [activations.summary.kept(shard) for shard in activations.shards]


@pytest.mark.parametrize("readers", [2, 5, 40])
def test_many_threads_read_what_one_reads(tmp_path: Path, small_chunks: None, readers: int) -> None:
    activations = paired(tmp_path, *random_activations(500, WIDTH).split(250))
    alone = islice(activations.shuffled_batches(20, 200, seed=0), 60)
    memory = InMainMemory(200, WIDTH, activations._read, readers, pinned=False)
    together = batches(plan(kept(activations), 20, 200, 0, 0, (0, 1)), memory, 20)
    for one, many in zip(alone, together, strict=False):
        assert torch.equal(one, many)
    together.close()


@pytest.mark.parametrize("start", [0, 7])
def test_parts_of_all_ranks_make_the_batch(tmp_path: Path, small_chunks: None, start: int) -> None:
    activations = numbered(tmp_path, 200, 170, skip_first=1)
    whole = islice(activations.shuffled_batches(24, 100, seed=1, start=start), 40)
    parts = [
        islice(activations.shuffled_batches(24, 100, seed=1, start=start, share=(rank, 3)), 40)
        for rank in range(3)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [len(share) for share in shares] == [8, 8, 8]
        assert torch.equal(torch.cat(shares), batch)


def test_a_process_reads_its_own_rows_and_none_that_a_resumed_training_has_had(
    tmp_path: Path, small_chunks: None
) -> None:
    activations = numbered(tmp_path, 160)
    whole, mine = (next(plan(kept(activations), 16, 160, 0, 4, share)) for share in ((0, 1), (1, 2)))
    assert (len(whole.order), len(mine.order)) == (6 * 16, 6 * 8)
    for pool in (whole, mine):
        assert sorted(pool.order) == list(range(sum(len(piece.rows) for piece in pool.pieces)))
        assert all(len(piece.rows) for piece in pool.pieces)


def test_two_pools_no_larger_than_the_data_are_held(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    class Watched(InMainMemory):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            held.append([len(pool) for pool in self.pools])
            assert self.readers == 1  # the training has the cores

    monkeypatch.setattr(pools, "InMainMemory", Watched)
    activations = numbered(tmp_path, 300, 300)
    for buffer_tokens, share in ((70, (0, 1)), (10_000, (0, 1)), (10_000, (1, 2))):
        activations.shuffled_batches(40, buffer_tokens, seed=0, share=share)
    assert held == [[40, 40], [600, 600], [300, 300]]


def test_a_damaged_chunk_stops_the_training_and_is_named(tmp_path: Path, small_chunks: None) -> None:
    activations = numbered(tmp_path, 320, 320)
    path = activations.shards[1].paths[1]
    with h5py.File(path) as file:
        chunk = file["activations"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"broken")
    with pytest.raises(UserError, match=f"^{path}: rows [0-9]+ to [0-9]+ are damaged"):
        next(activations.shuffled_batches(16, 640, seed=0))


def test_an_error_in_the_next_pool_does_not_wait_until_that_is_used(
    tmp_path: Path, small_chunks: None
) -> None:
    activations = numbered(tmp_path, 640)

    def read(piece: Piece, out: Tensor) -> None:
        if out.untyped_storage().data_ptr() == memory.pools[1].data_ptr():
            raise UserError("damaged")
        activations._read(piece, out)

    memory = InMainMemory(320, 3, read, 2, pinned=False)
    found = batches(plan(kept(activations), 16, 320, 0, 0, (0, 1)), memory, 16)  # 20 batches of a pool
    with pytest.raises(UserError, match="damaged"):
        for _ in range(2):
            next(found)
            assert memory.stopped.wait(timeout=60)


def test_closing_ends_the_threads_before_the_pool_is_read(tmp_path: Path, small_chunks: None) -> None:
    activations, before, begun = numbered(tmp_path, 640), threading.active_count(), []

    def read(piece: Piece, out: Tensor) -> None:
        begun.append(piece)
        if len(begun) > 20:  # in the second pool
            assert memory.stopped.wait(timeout=60)
        activations._read(piece, out)

    memory = InMainMemory(320, 3, read, 4, pinned=False)
    found = batches(plan(kept(activations), 16, 320, 0, 0, (0, 1)), memory, 16)
    next(found)
    found.close()
    assert len(begun) <= 20 + 4  # of 40
    assert threading.active_count() == before


def test_a_process_ends_though_its_batches_were_not_closed() -> None:
    """Reading the next pool would take an hour."""
    program = """
import time
import numpy as np
from crossdiff.activations.pools import InMainMemory, Piece, Pool, batches
def read(piece, out):
    time.sleep(piece.start)
pool = Pool([Piece(0, 0, np.arange(4))] * 4, np.arange(16))
late = Pool([Piece(0, 1, np.arange(4))] * 3600, np.arange(14400))
found = batches(iter([pool, late]), InMainMemory(14400, 1, read, 2, pinned=False), 16)
print(len(next(found)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr


# Where pools are held


@pytest.mark.parametrize(
    ("usable", "reserved", "where"),
    [
        (2 * 1.1 * 9.4e9 + 12e9, 12e9, "on the GPU"),
        (24e9, 12e9, "in main memory, the GPU has room for two of"),
        (8e9, 12e9, "two of 0"),
    ],
)
def test_a_gpu_holds_the_pools_if_two_fit_beside_the_training(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    usable: float,
    reserved: float,
    where: str,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pools, "usable_memory", lambda device: usable)
    monkeypatch.setattr(pools, "OnGPU", lambda *arguments: "GPU")
    monkeypatch.setattr(pools, "InMainMemory", lambda *arguments, pinned: f"pinned {pinned}")
    monkeypatch.setattr(pools, "batches", lambda plans, memory, batch: memory)
    monkeypatch.setattr(pools, "copied", lambda plans, memory, batch, device: memory)
    held = read_ahead(iter(()), 2048, 1_000_000, 2304, None, GPU, reserved, processes=1)
    assert held == ("GPU" if where == "on the GPU" else "pinned True")
    (line,) = caplog.messages
    assert line.startswith("two pools of 1,000,000 token pairs, 9.2 GB each, ")
    assert where in line


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
held = pytest.mark.parametrize("reserved", [0, 1e15], ids=["on the GPU", "in main memory"])


@pytest.mark.gpu
@needs_gpu
@held
@pytest.mark.parametrize(("start", "share"), [(0, (0, 1)), (11, (1, 2))])
def test_batches_on_a_gpu_are_those_of_a_cpu(
    tmp_path: Path, small_chunks: None, reserved: float, start: int, share: tuple[int, int]
) -> None:
    """Read many pools and epochs while the training's stream lags: no pool may be overwritten too early."""
    activations = paired(tmp_path, *random_activations(3000, 64).split(1000))
    options = {"seed": 3, "start": start, "share": share}
    found = activations.shuffled_batches(40, 1000, device=GPU, reserved=reserved, **options)
    busy, seen = torch.randn(4096, 4096, device=GPU), []
    for batch in islice(found, 300):
        for _ in range(4):
            busy = (busy @ busy).clamp(-1, 1)
        seen.append(batch + 0)  # queued behind the products
        assert batch.is_cuda
    found.close()
    for batch, expected in zip(seen, activations.shuffled_batches(40, 1000, **options), strict=False):
        assert torch.equal(batch.cpu(), expected)


@pytest.mark.gpu
@needs_gpu
@held
def test_a_training_on_a_gpu_does_not_wait_for_the_device_when_it_takes_batches(
    tmp_path: Path, small_chunks: None, reserved: float
) -> None:
    found = paired(tmp_path, random_activations(1000, WIDTH)).shuffled_batches(
        40, 200, 0, device=GPU, reserved=reserved
    )
    next(found)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(60):
            next(found)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        found.close()
