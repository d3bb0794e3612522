"""Triton kernels behind the operations of ``crosscoders.sparse``, ``selection`` and ``optimiser``, and where they run.

The same mathematics as the plain operations, in float32. They run on cards of an architecture on which ``make test-gpu`` passed
(data/cards); the environment variable CROSSDIFF_KERNELS, which the workflow sets from the key ``kernels``, overrules that.
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
    """The module ``triton_kernels`` if its kernels run on ``tensor``, which must be float32 for it; else None."""
    return _on(tensor.device, os.environ.get(SETTING, "auto")) if tensor.dtype == torch.float32 else None


@cache
def _on(device: torch.device, setting: str) -> ModuleType | None:
    if setting not in ("auto", "triton", "plain"):
        raise UserError(f"{SETTING}: found {setting!r}, allowed: auto, triton, plain")
    if setting == "plain" or (
        device.type != "cuda" and not (setting == "triton" and os.environ.get("TRITON_INTERPRET") == "1")
    ):
        return None
    if (
        device.type == "cuda"
        and setting == "auto"
        and (found := architecture(device)) not in proven_architectures()
    ):
        log.info(
            "%s is not among the architectures on which the Triton kernels were tested: the plain path", found
        )
        return None
    try:
        from crossdiff.crosscoders.kernels import triton_kernels

        triton_kernels.probe(device)
    except Exception as error:  # whatever a compiler raises
        log.warning(
            "the Triton kernels do not run here (%s: %s): the plain path",
            type(error).__name__,
            first_line(error),
        )
        return None
    return triton_kernels


@contextmanager
def off() -> Iterator[None]:
    """The plain path, to compare with."""
    before = os.environ.get(SETTING, "auto")
    os.environ[SETTING] = "plain"
    try:
        yield
    finally:
        os.environ[SETTING] = before


def architecture(device: torch.device) -> str:
    """Of a CUDA device, as its compiler calls it: "sm_90"."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
