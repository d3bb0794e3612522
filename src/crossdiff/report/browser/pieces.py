"""Writes the pieces of data that a page loads from disk.

A page on disk may not fetch files, but it may run scripts. So a piece is a script that hands its content to
the page (report/browser/pieces.js). The content is JSON, compressed, as base64. It is compact, and nothing in
the data can break out of it.
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DIGITS = 4  # significant digits of a number


def write_piece(folder: Path, name: str, value: Any) -> None:
    """Write ``value`` as the script ``{name}.js``. It hands the value to the page as ``name``.

    NaN is an error.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(text, compresslevel=6, mtime=0)).decode()
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'crossdiff.receive("{name}", "{packed}");\n', encoding="ascii")


def numbers(values: pd.Series | np.ndarray) -> list[float | None]:
    """Return numbers with DIGITS significant digits. NaN and infinities become None, since JSON has none."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    size = np.where(finite & (values != 0), np.abs(values), 1)
    places = DIGITS - 1 - np.floor(np.log10(size))
    # The scale is a whole number, so a division by it gives the float that is nearest to the few digits.
    scale = 10.0 ** np.abs(places)
    rounded = np.where(places >= 0, np.rint(size * scale) / scale, np.rint(size / scale) * scale)
    signed = np.where(values == 0, 0, np.copysign(rounded, values))
    return [
        value if is_finite else None
        for value, is_finite in zip(signed.tolist(), finite.tolist(), strict=True)
    ]


class Vocabulary:
    """Numbers the tokens that occur in the order of their appearance."""

    def __init__(self) -> None:
        self._places = np.empty(0, np.int64)  # by id; -1 where a token has not occurred
        self.ids: list[int] = []

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of each token. New tokens get the next numbers."""
        if len(ids) and (largest := int(ids.max())) >= len(self._places):
            self._places = np.concatenate([self._places, np.full(largest + 1 - len(self._places), -1)])
        new = np.unique(ids[self._places[ids] < 0])
        self._places[new] = len(self.ids) + np.arange(len(new))
        self.ids += new.tolist()
        return self._places[ids]
