"""The activation cache: what is written comes back, and damage is told."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from crossdiff.activations.cache import CHUNK_ROWS, read_header, read_rows, tokens_digest, write_cache
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
def test_rows_are_read_within_and_across_chunks(cache: Path, activations: torch.Tensor, start: int, stop: int) -> None:
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
