"""The three ways in which sparse operations run, all on a CPU, and selections that are hard for each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from crossdiff.crosscoders import kernels, optimiser, selection
from crossdiff.crosscoders.selection import Encoder, above, largest

PATHS = ["cpu", "device", "kernels"]


@contextmanager
def on_path(path: str) -> Iterator[None]:
    """Choose a way: plain operations as on a CPU, as on a GPU ("device"), or interpreted Triton kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.SETTING, "triton" if path == "kernels" else "plain")
        assert os.environ["TRITON_INTERPRET"] == "1"
        if path == "kernels":
            from crossdiff.crosscoders.kernels import operations

            patch.setattr(operations, "ROOM", 64)  # interpreted programs are slow
        if path == "device":
            for module in (selection, optimiser):
                patch.setattr(module, "is_synchronous", lambda _device: False)
        yield


def hard_encoder(
    kind: str, rng: np.random.Generator, rows: int, latents: int, width: int
) -> tuple[Tensor, Tensor]:
    """x (rows, width) and weight (latents, width) whose products in bfloat16 mislead."""
    if kind == "few directions":  # as documents with topics make them
        basis = rng.normal(size=(3, width))
        x, weight = rng.normal(size=(rows, 3)) @ basis, rng.normal(size=(latents, 3)) @ basis
    elif kind == "terms that cancel":  # large terms, small sums: a product's error exceeds its value
        large = 1000 * rng.normal(size=width)
        x, weight = large + rng.normal(size=(rows, width)), rng.normal(size=(latents, width))
        weight -= np.outer(weight @ large, large) / (large @ large)
    elif kind == "nearly equal":  # all are equal in bfloat16
        x, weight = np.ones((rows, width)), 1 + rng.random((latents, width)) / 1000
    else:  # "outlier": one coordinate outweighs all
        x, weight = rng.normal(size=(rows, width)), rng.normal(size=(latents, width))
        x[:, 0] *= 1000
        weight[:, 0] /= 1000
    return torch.from_numpy(x).float(), torch.from_numpy(weight).float()


def assert_selects_exactly(
    kind: str,
    precision: str,
    seed: int,
    sizes: tuple[int, int, int],
    counts: tuple[int, ...],
    where: str = "cpu",
) -> None:
    """The selection is the largest in float64, up to what float32 can tell apart; so is that of ``above``.

    ``sizes``: rows, latents, width.
    """
    rng = np.random.default_rng(seed)
    x, weight = (part.to(where) for part in hard_encoder(kind, rng, *sizes))
    bias = torch.from_numpy(rng.normal(size=sizes[1])).float().to(where)
    weights = torch.from_numpy(rng.random((sizes[1], 1))).float().to(where) + 0.5
    exact = (x.double() @ weight.double().T + bias).relu() * weights[:, 0]
    unsure = 1e-5 * x.norm(dim=1).max() * weight.norm(dim=1).max()  # error of float32 sums
    for count in counts:
        found = largest(Encoder(weight, bias, precision), x, weights, count).active
        kth = exact.flatten().topk(count).values[-1]
        chosen = torch.zeros_like(exact, dtype=torch.bool).index_put(
            (found.rows, found.latents), torch.tensor(True, device=x.device)
        )
        assert chosen.sum() == min(count, int((exact > 0).sum()))
        assert chosen[exact > kth + unsure].all()
        assert not chosen[exact < kth - unsure].any()
    bounds = exact[exact > 0].median().float().expand(sizes[1])
    found = above(Encoder(weight, bias, precision), x, bounds).dense() > 0
    codes = exact / weights[:, 0]
    assert found[codes > bounds + unsure].all()
    assert not found[codes < bounds - unsure].any()
