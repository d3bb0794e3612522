"""The bytes of a cache's chunk, encoded and decoded outside HDF5.

HDF5's own filters hold one lock. Here several threads compress and read at the same time.

The filters are those that HDF5 would apply: byte shuffle, then zstd. So any program with HDF5's zstd filter
reads the file. zstd's own checksum guards the content, and every decoder checks it.

The parameters suit activations (benchmarks/cache.py). The bytes that hold signs and exponents have few
distinct values but repeat in no order, so a search for repetitions costs time and gains nothing.
"""

import numpy as np
import zstandard

# The filters' numbers and settings in HDF5: byte shuffle of two-byte values, zstd.
FILTERS = ((2, (2,)), (32015, (1,)))
ZSTD = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17, write_checksum=True
)


class DamagedChunk(Exception):
    """The stored bytes are not those that were written."""


def encode(values: np.ndarray) -> bytes:
    """Return the bytes that a chunk with ``values`` (uint16, any shape) has in the file."""
    planes = np.empty((2, values.size), np.uint8)
    np.copyto(planes[0].reshape(values.shape), values, casting="unsafe")
    np.right_shift(values, 8, out=planes[1].reshape(values.shape), casting="unsafe")
    return zstandard.ZstdCompressor(compression_params=ZSTD).compress(planes.data)


def decode(stored: bytes, shape: tuple[int, int], start: int, out: np.ndarray) -> None:
    """Fill ``out`` (rows, d_model), uint16, with rows of a chunk, from row ``start`` of the chunk on.

    ``stored`` holds the bytes of the whole chunk, which has ``shape`` (rows, d_model). Raises DamagedChunk.
    """
    try:
        frame = zstandard.get_frame_parameters(stored)
        if not frame.has_checksum or frame.content_size != 2 * shape[0] * shape[1]:
            checksum = "with" if frame.has_checksum else "without"
            raise DamagedChunk(f"a frame of {frame.content_size} bytes, {checksum} a checksum")
        planes = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedChunk(str(error)) from error
    low, high = np.frombuffer(planes, np.uint8).reshape(2, *shape)[:, start : start + len(out)]
    np.copyto(out, high)
    np.left_shift(out, 8, out=out)
    np.bitwise_or(out, low, out=out)
