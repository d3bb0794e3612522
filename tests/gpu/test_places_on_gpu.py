"""Models over two GPUs, and partly in main memory, give what they give on one GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import token_shard
from helpers_adapters import adapted, write_adapter
from helpers_folders import random_model

from crossdiff.activations.cache import read_rows
from crossdiff.activations.harvest import harvest_shard
from crossdiff.interventions.proof import PARTS, allowed, prove
from crossdiff.models import placement
from crossdiff.models.answers import greedy
from crossdiff.models.digests import digest
from crossdiff.models.footprint import footprint_of
from crossdiff.models.forward import run_to_layers
from crossdiff.models.load import load_model
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.placement import OFFLOAD

pytestmark = pytest.mark.gpu

TEXTS = [np.arange(1, 1 + length) for length in (6, 24, 24, 40)]
LAYERS = [0, 2, 3]


@pytest.fixture(params=["plain", "adapter"])
def folder(request, tmp_path: Path) -> Path:
    base = random_model(tmp_path / "base", layers=4)
    if request.param == "plain":
        return base
    write_adapter(base, tmp_path / "lora")
    return adapted(base, tmp_path / "lora", tmp_path / "chat", trained_on=str(base))


def squeezed(monkeypatch: pytest.MonkeyPatch, folder: Path, share: float) -> None:
    """Leave room on each GPU for activations and a share of the weights."""
    needed = footprint_of(folder, torch.bfloat16)
    room = needed.activations + share * needed.weights
    monkeypatch.setattr(placement, "room", lambda _where: room)


def same(apart: torch.nn.Module, whole: torch.nn.Module, tmp_path: Path) -> None:
    ids, shard = torch.tensor(TEXTS[1])[None], token_shard((5, 17, 2, 30, 9, 1, 40))
    assert digest(apart) == digest(whole)
    streams = [run_to_layers(model, ids.to(device_of_inputs(model)), LAYERS) for model in (apart, whole)]
    for one, other in zip(*streams, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=2**-7, atol=1e-3)
    for one, other in zip(*(greedy(model, TEXTS, 6) for model in (apart, whole)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert max(prove(apart, "apart", TEXTS, 2, list(PARTS)).values()) < allowed(apart)
    caches = []
    for name, model in (("apart", apart), ("whole", whole)):
        harvest_shard(model, shard, {3: tmp_path / f"{name}.h5"}, 64)
        caches.append(read_rows(tmp_path / f"{name}.h5", 0, len(shard.token)).float())
    torch.testing.assert_close(*caches, rtol=2**-7, atol=1e-3)


def test_two_gpus(folder, tmp_path, monkeypatch) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    whole = load_model(folder, torch.bfloat16)
    squeezed(monkeypatch, folder, 0.7)
    apart = load_model(folder, torch.bfloat16)
    assert {weight.device.index for weight in apart.parameters()} == {0, 1}
    same(apart, whole, tmp_path)


def test_main_memory(folder, tmp_path, monkeypatch) -> None:
    whole = load_model(folder, torch.bfloat16)
    squeezed(monkeypatch, folder, 0.8 / torch.cuda.device_count())
    monkeypatch.setenv(OFFLOAD, "1")
    apart = load_model(folder, torch.bfloat16)
    assert {weight.device.type for weight in apart.parameters()} == {"cuda", "meta"}
    same(apart, whole, tmp_path)


def test_limit_is_kept(monkeypatch) -> None:
    """A job that asks for more than ``gpus.memory`` fails, so others on the GPU keep their share."""
    monkeypatch.setenv("CROSSDIFF_GPU_MEMORY", "1")
    try:
        where = placement.device()
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * 10**9, dtype=torch.uint8, device=where)
        assert placement.room(where) < 10**9 + 1
    finally:
        for number in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(1.0, number)
