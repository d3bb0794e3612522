"""The three ways in which sparse operations run, all of them on a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crossdiff.crosscoders import kernels, optimiser, selection

PATHS = ["cpu", "device", "kernels"]


@contextmanager
def on_path(path: str) -> Iterator[None]:
    """ "cpu": as here; "device": plain operations as on a GPU; "kernels": Triton's kernels, interpreted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.SETTING, "triton" if path == "kernels" else "plain")
        assert os.environ["TRITON_INTERPRET"] == "1"
        if path == "device":
            for module in (selection, optimiser):
                patch.setattr(module, "is_synchronous", lambda _device: False)
        yield
