"""Models on a GPU give what they give on the CPU: harvesting, patching and steering."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_activations import chats, random_crosscoder, token_shard
from helpers_models import D_MODEL, FAMILIES, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.cache import read_rows
from crossdiff.activations.harvest import harvest_shard
from crossdiff.activations.pairs import Summary
from crossdiff.device import device, fast_dtype
from crossdiff.interventions.causal_effect import Answers
from crossdiff.interventions.changes import Change
from crossdiff.interventions.patching import WHOLE, Variant, answer_kl
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.texts.shards import Shard

pytestmark = pytest.mark.gpu

VOCABULARY, LAYER, LATENTS = 200, 1, 24
EVERYTHING = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
BFLOAT16 = 2.0**-8  # relative error of one rounding


def harvested(model: PreTrainedModel, shard: Shard, path: Path) -> Tensor:
    """Harvest activations (tokens, d_model) in float32, as the cache has them."""
    harvest_shard(model, shard, {LAYER: path}, 64)
    return read_rows(path, 0, len(shard.token)).float()


@pytest.mark.parametrize("family", FAMILIES)
def test_harvest_is_that_of_the_cpu_up_to_rounding(family: str, tmp_path: Path) -> None:
    model, shard = tiny_model(family, VOCABULARY, 0), token_shard((5, 17, 2, 30, 9, 1, 40))
    on_cpu = harvested(model, shard, tmp_path / "cpu.h5")
    on_gpu = harvested(model.to(device()), shard, tmp_path / "gpu.h5")
    assert on_cpu.norm() > 0
    assert ((on_gpu - on_cpu).abs() <= 2 * BFLOAT16 * on_cpu.abs() + 1e-4).all()


def test_harvest_in_the_dtype_of_the_gpu_is_close(tmp_path: Path) -> None:
    model, shard = tiny_model("gemma2", VOCABULARY, 0), token_shard((5, 17, 2, 30, 9, 1, 40))
    on_cpu = harvested(model, shard, tmp_path / "cpu.h5")
    on_gpu = harvested(model.to(device(), fast_dtype()), shard, tmp_path / "gpu.h5")
    assert (on_gpu - on_cpu).norm() < 0.05 * on_cpu.norm()


def test_patching_gives_the_same_divergences() -> None:
    shard = chats(VOCABULARY)
    wanted = np.zeros(len(shard.token), bool)
    wanted[Answers.of(shard).row] = True
    assert wanted.any()
    variants = [*map(Variant, WHOLE), Variant("some", "subtraction", np.array([1, 4, 5, 17]))]
    crosscoder = random_crosscoder(D_MODEL, LATENTS).requires_grad_(False)
    crosscoder.layer = LAYER
    crosscoder.threshold += 1.0
    models = [tiny_model("llama", VOCABULARY, seed) for seed in (0, 1)]
    found = []
    for where in (torch.device("cpu"), device()):
        placed = [deepcopy(part).to(where) for part in (*models, crosscoder)]
        found.append(answer_kl(*placed, EVERYTHING, shard, wanted, variants, 64).kl[wanted])
    assert (found[0] > 0).any()
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_steering_gives_the_same_answers() -> None:
    prompts = [np.arange(1, 4 + n, dtype=np.int32) for n in range(4)]
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(3))
    changes = [Change.nothing(D_MODEL), Change.add(4 * direction), Change.ablate(direction)]
    found = []
    for where in (torch.device("cpu"), device()):
        model = tiny_model("llama", VOCABULARY, 0).to(where)
        found.append(list(answer(model, read(model, prompts, LAYER, [1] * len(prompts)), changes, 6)))
    on_cpu, on_gpu = ([[row.tolist() for row in given.answers] for given in side] for side in found)
    assert on_cpu[0] != on_cpu[1]
    assert on_gpu == on_cpu
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other.predicting.cpu(), one.predicting, rtol=1e-3, atol=1e-3)
