"""The bytes of a chunk of a cache, made and read outside HDF5, whose filters hold one lock: threads compress and read at once.

The filters are those that HDF5 would apply, byte shuffle and zstd, so any program with HDF5's zstd filter
reads the file. zstd's own checksum guards the content; every decoder checks it. The parameters suit
activations (benchmarks/cache.py): the bytes of signs and exponents have few values, but repeat in no order,
so that a search for repetitions only costs time and ratio.
"""

import numpy as np
import zstandard

FILTERS = (
    (2, (2,)),
    (32015, (1,)),
)  # numbers and settings that HDF5 knows: byte shuffle of two-byte values, zstd
ZSTD = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17, write_checksum=True
)


class DamagedChunk(Exception):
    """The bytes are not those that were written."""


def encode(values: np.ndarray) -> bytes:
    """``values``, uint16 in any shape, as the bytes of a chunk."""
    planes = np.empty((2, values.size), np.uint8)
    np.copyto(planes[0].reshape(values.shape), values, casting="unsafe")
    np.right_shift(values, 8, out=planes[1].reshape(values.shape), casting="unsafe")
    return zstandard.ZstdCompressor(compression_params=ZSTD).compress(planes)


def decode(stored: bytes, shape: tuple[int, int], start: int, out: np.ndarray) -> None:
    """Fill ``out`` (rows, d_model), uint16, with the rows from ``start`` of a chunk of ``shape``. Raises DamagedChunk."""
    try:
        frame = zstandard.get_frame_parameters(stored)
        if not frame.has_checksum or frame.content_size != 2 * shape[0] * shape[1]:
            raise DamagedChunk(
                f"a frame of {frame.content_size} bytes, {'with' if frame.has_checksum else 'without'} a checksum"
            )
        planes = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedChunk(str(error)) from error
    low, high = np.frombuffer(planes, np.uint8).reshape(2, *shape)[:, start : start + len(out)]
    np.copyto(out, high)
    np.left_shift(out, 8, out=out)
    np.bitwise_or(out, low, out=out)
