"""Whether a training fits on a GPU is said before it starts, with what would fit."""

import math
import re

import pytest
from helpers_activations import batchtopk_settings

from crossdiff.crosscoders.memory import check_room, training_bytes
from crossdiff.errors import UserError

PAPER = {"latents": 73_728, "batch": 2048, "tokens": 10**9, "k": 100}
WIDTH = 2304


def number(pattern: str, message: str) -> int:
    return int(re.search(pattern + r" up to ([\d,]+)", message)[1].replace(",", ""))


def test_a_training_that_fits_starts() -> None:
    needed = training_bytes(WIDTH, 73_728, 2048)
    # Encoder and decoder of two models in four copies of 4 bytes, and the codes.
    assert needed == 73_728 * (16 * 4 * WIDTH + 24 * 2048)
    for usable in (needed, math.inf):
        check_room(batchtopk_settings(**PAPER), WIDTH, usable)
    with pytest.raises(
        UserError,
        match=r"73,728 latents of width 2 x 2,304 with batch 2,048 need 14.5 GB of the GPU, 14.5 GB are free",
    ):
        check_room(batchtopk_settings(**PAPER), WIDTH, needed - 1)


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("usable", [6e9, 11.5e9, 12.5e9])
def test_what_is_allowed_fits_and_more_does_not(usable: float, processes: int) -> None:
    settings = batchtopk_settings(**PAPER | {"batch": 8192})
    with pytest.raises(UserError) as caught:
        check_room(settings, WIDTH, usable, processes)
    found = {"latents": number("latents", str(caught.value))}
    if usable > 73_728 * 64 * WIDTH:
        found["batch"] = number("batch", str(caught.value))
    assert ("or batch" in str(caught.value)) == ("batch" in found)  # below, no batch is small enough
    for name, value in found.items():
        check_room(settings.model_copy(update={name: value}), WIDTH, usable, processes)
        with pytest.raises(UserError):
            check_room(settings.model_copy(update={name: value + processes}), WIDTH, usable, processes)


def test_what_is_allowed_is_named_by_the_key_that_was_set() -> None:
    settings = batchtopk_settings(**PAPER | {"latents": None, "expansion": 32})
    with pytest.raises(UserError, match=r"allowed: expansion up to 13$"):
        check_room(settings, WIDTH, 6e9)
