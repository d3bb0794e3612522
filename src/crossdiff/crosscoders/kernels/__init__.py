"""Decide where Triton kernels run for ``crosscoders.sparse``, ``selection`` and ``optimiser``.

The kernels compute the same mathematics as the plain operations, in float32. They run on cards of an
architecture on which ``make test-gpu`` passed (data/cards). The environment variable CROSSDIFF_KERNELS
overrules that. The workflow sets it from the key ``kernels``.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.tested_cards import proven_architectures

log = logging.getLogger(__name__)

SETTING = "CROSSDIFF_KERNELS"


def of(tensor: Tensor) -> ModuleType | None:
    """Return the module ``operations`` if the kernels run on ``tensor``, else None.

    They run on float32 only. Raises UserError for an unknown value of CROSSDIFF_KERNELS.
    """
    return _on(tensor.device, os.environ.get(SETTING, "auto")) if tensor.dtype == torch.float32 else None


@cache
def _on(device: torch.device, setting: str) -> ModuleType | None:
    if setting not in ("auto", "triton", "plain"):
        raise UserError(f"{SETTING}: found {setting!r}, allowed: auto, triton, plain")
    on_gpu, interpreted = device.type == "cuda", os.environ.get("TRITON_INTERPRET") == "1"
    if setting == "plain" or not (on_gpu or (setting == "triton" and interpreted)):
        return None
    if on_gpu and setting == "auto" and (found := architecture(device)) not in proven_architectures():
        log.info("using the plain path, because the Triton kernels were not tested on %s", found)
        return None
    try:
        from crossdiff.crosscoders.kernels import operations

        operations.probe(device)
    except Exception as error:  # a compiler may raise anything
        why = f"{type(error).__name__}: {first_line(error)}"
        log.warning("using the plain path, because the Triton kernels do not run here (%s)", why)
        return None
    return operations


@contextmanager
def off() -> Iterator[None]:
    """Return a context in which the plain path runs, to compare with."""
    before = os.environ.get(SETTING, "auto")
    os.environ[SETTING] = "plain"
    try:
        yield
    finally:
        os.environ[SETTING] = before


def architecture(device: torch.device) -> str:
    """Return the architecture of a CUDA device as its compiler names it, for example "sm_90"."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
