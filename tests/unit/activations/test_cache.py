"""The activation cache gives back what was written, and names damage."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch

from crossdiff.activations import cache as cache_module
from crossdiff.activations.cache import (
    CHUNK_ROWS,
    cache_writer,
    read_header,
    read_into,
    read_rows,
    tokens_digest,
    write_cache,
)
from crossdiff.errors import UserError

ROWS, WIDTH = CHUNK_ROWS + 100, 16


@pytest.fixture
def activations() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


@pytest.fixture
def cache(tmp_path: Path, activations: torch.Tensor) -> Path:
    path = tmp_path / "0000.base.h5"
    write_cache(path, activations, 7, np.arange(ROWS))
    return path


def flip_byte(path: Path, dataset: str, chunk: int = 0) -> None:
    """Flip all bits of one byte in the middle of a stored chunk."""
    with h5py.File(path) as file:
        stored = file[dataset].id.get_chunk_info(chunk)
    data = bytearray(path.read_bytes())
    data[stored.byte_offset + stored.size // 2] ^= 0xFF
    path.write_bytes(data)


def refused(path: Path, read) -> str:
    """The message of the UserError that ``read`` raises, which names the file in one line."""
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_first_rows(path: Path) -> torch.Tensor:
    return read_rows(path, 0, 10)


def test_every_bfloat16_bit_pattern_survives_a_round_trip(tmp_path: Path) -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(4096, 16)
    write_cache(tmp_path / "all.h5", bits.view(torch.bfloat16), 0, np.arange(4096))
    assert torch.equal(read_rows(tmp_path / "all.h5", 0, 4096).view(torch.int16), bits.view(torch.int16))


def test_header_says_layer_shape_and_tokens(cache: Path) -> None:
    header = read_header(cache)
    assert (header.layer, header.d_model, header.rows) == (7, WIDTH, ROWS)
    assert header.tokens_sha256 == tokens_digest(np.arange(ROWS))


def test_norms_are_those_of_the_stored_rows(cache: Path, activations: torch.Tensor) -> None:
    expected = np.linalg.norm(activations.double().numpy(), axis=1)
    np.testing.assert_allclose(read_header(cache).norm, expected, rtol=1e-6)


def test_tokens_digest_depends_on_the_ids_and_not_on_their_type() -> None:
    ids = np.arange(10)
    assert tokens_digest(ids.astype(np.int64)) == tokens_digest(ids.astype(np.int32))
    assert tokens_digest(ids) != tokens_digest(ids[::-1])


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, CHUNK_ROWS), (CHUNK_ROWS - 1, CHUNK_ROWS + 1), (CHUNK_ROWS, ROWS), (ROWS - 1, ROWS), (0, ROWS)],
)
def test_rows_are_read_within_and_across_chunks(
    cache: Path, activations: torch.Tensor, start: int, stop: int
) -> None:
    assert torch.equal(read_rows(cache, start, stop), activations[start:stop])


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS])
def test_any_number_of_rows_can_be_written(tmp_path: Path, rows: int) -> None:
    activations = torch.arange(rows).view(-1, 1).to(torch.bfloat16)
    write_cache(tmp_path / "some.h5", activations, 0, np.arange(rows))
    assert read_header(tmp_path / "some.h5").rows == len(read_header(tmp_path / "some.h5").norm) == rows
    assert torch.equal(read_rows(tmp_path / "some.h5", 0, rows), activations)


def test_rows_that_are_not_contiguous_in_memory_are_written_in_order(tmp_path: Path) -> None:
    activations = torch.randn(4, 50).to(torch.bfloat16).T
    write_cache(tmp_path / "turned.h5", activations, 0, np.arange(50))
    assert torch.equal(read_rows(tmp_path / "turned.h5", 0, 50), activations)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("read", [read_header, read_first_rows])
def test_truncated_file_is_refused_by_name(cache: Path, keep: float, read) -> None:
    data = cache.read_bytes()
    cache.write_bytes(data[: int(keep * len(data))])
    assert "not a whole HDF5 file" in refused(cache, read)


@pytest.mark.parametrize("read", [read_header, read_first_rows])
def test_removed_file_is_refused_with_the_way_to_get_it_back(
    cache: Path, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "removed", lambda path: object() if path == cache else None)
    told = "removed as configured (activations.keep: false); the target `activations` makes all caches"
    assert told in refused(cache, read)


@pytest.mark.parametrize("read", [read_header, read_first_rows])
def test_missing_file_is_refused_by_name(tmp_path: Path, read) -> None:
    refused(tmp_path / "absent.h5", read)


@pytest.mark.parametrize("attributes", [{}, {"format": "another program 3"}])
@pytest.mark.parametrize("read", [read_header, read_first_rows])
def test_foreign_hdf5_is_refused_by_name(tmp_path: Path, attributes: dict, read) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file.attrs.update(attributes)
        file["activations"] = np.zeros((20, WIDTH), np.uint16)
    message = refused(tmp_path / "foreign.h5", read)
    assert "not an activation cache" in message
    assert repr(attributes.get("format")) in message


def test_flipped_byte_in_the_activations_is_refused_by_name(cache: Path, activations: torch.Tensor) -> None:
    flip_byte(cache, "activations", chunk=1)
    assert "damaged" in refused(cache, lambda path: read_rows(path, CHUNK_ROWS, ROWS))
    assert torch.equal(read_rows(cache, 0, CHUNK_ROWS), activations[:CHUNK_ROWS])  # the other chunk is whole


def test_flipped_byte_in_the_norms_is_refused_by_name(cache: Path) -> None:
    flip_byte(cache, "norm")
    assert "damaged" in refused(cache, read_header)


def test_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    not_bfloat16 = torch.zeros(10, WIDTH)
    with pytest.raises(TypeError):
        write_cache(tmp_path / "half.h5", not_bfloat16, 0, np.arange(10))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_an_older_cache_as_it_was(cache: Path, activations: torch.Tensor) -> None:
    with pytest.raises(TypeError):
        write_cache(cache, activations.float(), 0, np.arange(ROWS))
    assert torch.equal(read_rows(cache, 0, ROWS), activations)
    assert list(cache.parent.iterdir()) == [cache]


def test_plain_h5py_reads_what_was_written(cache: Path, activations: torch.Tensor) -> None:
    with h5py.File(cache) as file:
        assert np.array_equal(file["activations"][:], activations.view(torch.uint16).numpy())


def older_cache(path: Path, activations: torch.Tensor) -> None:
    """Write a cache as older versions did: HDF5 itself applies filters and checksums."""
    write_cache(path, activations, 7, np.arange(len(activations)))
    with h5py.File(path, "r+") as file:
        chunks = file["activations"].chunks
        del file["activations"]
        filters = {"shuffle": True, "fletcher32": True, "compression": hdf5plugin.Zstd(clevel=3)}
        file.create_dataset(
            "activations", data=activations.view(torch.uint16).numpy(), chunks=chunks, **filters
        )


def test_older_cache_is_read_and_its_damage_seen(tmp_path: Path, activations: torch.Tensor) -> None:
    path = tmp_path / "old.h5"
    older_cache(path, activations)
    assert torch.equal(read_rows(path, 10, ROWS), activations[10:])
    flip_byte(path, "activations", chunk=1)
    assert f"rows {CHUNK_ROWS} to {ROWS} are damaged" in refused(
        path, lambda path: read_rows(path, CHUNK_ROWS, ROWS)
    )
    assert torch.equal(read_rows(path, 0, CHUNK_ROWS), activations[:CHUNK_ROWS])


def test_cache_of_another_version_is_told_with_what_to_do(cache: Path) -> None:
    with h5py.File(cache, "r+") as file:
        file.attrs["format"] = "crossdiff activations 9"
    message = refused(cache, read_first_rows)
    assert "'crossdiff activations 9'" in message
    assert "remove it and run again" in message


def test_no_flipped_bit_of_a_chunk_gives_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CHUNK_ROWS", 16)
    activations = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    path = tmp_path / "small.h5"
    write_cache(path, activations, 0, np.arange(20))
    with h5py.File(path) as file:
        chunks = [file["activations"].id.get_chunk_info(number) for number in range(2)]
    whole, seen = path.read_bytes(), 0
    places = [place for chunk in chunks for place in range(chunk.byte_offset, chunk.byte_offset + chunk.size)]
    for place in places:
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            try:
                # Some bits of zstd carry no information, so a flip may go unnoticed and change nothing.
                assert torch.equal(read_rows(path, 0, 20), activations)
            except UserError:
                seen += 1
            try:
                with h5py.File(path) as file:
                    assert np.array_equal(file["activations"][:], activations.view(torch.uint16).numpy())
            except OSError:
                pass
    assert seen > 0.95 * 8 * len(places)


def test_chunk_that_was_never_written_is_damage(cache: Path) -> None:
    with h5py.File(cache, "r+") as file:
        del file["activations"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((CHUNK_ROWS, WIDTH))
        for number, values in cache_module.FILTERS:
            plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
        h5py.h5d.create(
            file.id, b"activations", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple((ROWS, WIDTH)), plan
        )
    assert "rows 0 to 10 are damaged" in refused(cache, read_first_rows)


def test_damage_after_a_first_reading_is_seen(cache: Path) -> None:
    read_first_rows(cache)
    flip_byte(cache, "activations")
    assert "rows 0 to 10 are damaged" in refused(cache, read_first_rows)


def test_rows_are_read_into_memory_with_strides(cache: Path, activations: torch.Tensor) -> None:
    pairs = torch.zeros(50, 2, WIDTH, dtype=torch.bfloat16)
    read_into(cache, CHUNK_ROWS - 20, pairs[:, 1])
    assert torch.equal(pairs[:, 1], activations[CHUNK_ROWS - 20 : CHUNK_ROWS + 30])
    assert not pairs[:, 0].any()


def test_threads_read_at_once(tmp_path: Path) -> None:
    activations = torch.randn(20 * CHUNK_ROWS, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    write_cache(tmp_path / "long.h5", activations, 0, np.arange(len(activations)))
    with ThreadPoolExecutor(8) as pool:
        starts = list(range(0, len(activations), 1500))
        for start, rows in zip(
            starts,
            pool.map(lambda start: read_rows(tmp_path / "long.h5", start, start + 1500), starts),
            strict=True,
        ):
            assert torch.equal(rows, activations[start : start + 1500])


def test_writer_takes_rows_in_any_order(tmp_path: Path, activations: torch.Tensor) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    with cache_writer(tmp_path / "mixed.h5", ROWS, WIDTH, 7, np.arange(ROWS)) as writer:
        for part in np.array_split(order, 7):
            rows = np.sort(part)
            writer.write(rows, activations[rows])
    assert torch.equal(read_rows(tmp_path / "mixed.h5", 0, ROWS), activations)
    np.testing.assert_array_equal(read_header(tmp_path / "mixed.h5").norm, activations.float().norm(dim=1))


def test_rows_that_are_missing_leave_no_file(tmp_path: Path, activations: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"1 of {ROWS} rows were not given"):
        with cache_writer(tmp_path / "short.h5", ROWS, WIDTH, 7, np.arange(ROWS)) as writer:
            writer.write(np.arange(1, ROWS), activations[1:])
    assert list(tmp_path.iterdir()) == []


def test_error_of_a_thread_reaches_who_writes(
    tmp_path: Path, activations: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_values: np.ndarray) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "encode", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_cache(tmp_path / "full.h5", activations, 7, np.arange(ROWS))
    assert list(tmp_path.iterdir()) == []


def test_writer_waits_where_threads_are_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds no more chunks than the threads may take, however fast rows come."""
    monkeypatch.setattr(cache_module, "CHUNK_ROWS", 4)
    held, most, lock = [0], [0], Lock()
    encode, write = cache_module.encode, cache_module.CacheWriter.write

    def slow(values: np.ndarray) -> bytes:
        time.sleep(0.01)
        with lock:
            held[0] -= 1
        return encode(values)

    def watched(writer: cache_module.CacheWriter, rows: np.ndarray, block: torch.Tensor) -> None:
        write(writer, rows, block)  # a whole chunk
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])

    monkeypatch.setattr(cache_module, "encode", slow)
    monkeypatch.setattr(cache_module.CacheWriter, "write", watched)
    rows = torch.zeros(400, 2, dtype=torch.bfloat16)
    write_cache(tmp_path / "many.h5", rows, 0, np.arange(400))
    assert held == [0]
    assert 1 < most[0] <= 2 * torch.get_num_threads()


def test_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    script = f"""
import numpy as np, os, signal, torch
from crossdiff.activations.cache import cache_writer
with cache_writer({str(tmp_path / "killed.h5")!r}, 5000, 16, 0, np.arange(5000)) as writer:
    writer.write(np.arange(4500), torch.ones(4500, 16, dtype=torch.bfloat16))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.h5").exists()


def test_the_same_activations_are_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    activations = torch.randn(5 * CHUNK_ROWS + 7, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = np.arange(len(activations), dtype=np.int32)
    written = []
    for number, threads in enumerate((1, 4, 4)):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            write_cache(tmp_path / f"{number}.h5", activations, 3, ids)
        finally:
            torch.set_num_threads(before)
        written.append((tmp_path / f"{number}.h5").read_bytes())
        time.sleep(1.1)  # HDF5 would note the second
    assert written[0] == written[1] == written[2]
