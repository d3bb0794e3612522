"""Crossdiff gives what the paper authors' code gives on the same weights and activations.

README.md tells how their values were recorded, in float64. Ours are compared in float64 and in float32. A
tolerance is a share of the quantity's largest magnitude.
"""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers_codes import encoded
from safetensors.torch import load_file
from torch import Tensor

from crossdiff.activations.cache import write_cache
from crossdiff.activations.pairs import PairedActivations, PairedShard, summarise
from crossdiff.config import MODELS, Activations, BatchTopKSettings, Bootstrap, L1Settings, Normalisation
from crossdiff.crosscoders import selection, trainer
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.base import Parts
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.sparse import Active
from crossdiff.crosscoders.trainer import Training, new_crosscoder
from crossdiff.latents.scaling import TARGETS, latent_scaling
from crossdiff.texts.shards import Shard

Recorded = dict[str, Tensor]
NORMALISATIONS = ("crosscoder", "sae", "mixed", "none", "decoupled")
WEIGHTS = ("encoder", "encoder_bias", "decoder", "decoder_bias")
LAYER = 3
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
THEIRS_IN_FLOAT32 = 1e-6  # they keep the threshold and the auxiliary loss in float32


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return load_file(Path(__file__).with_name("recorded.safetensors"))


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def check(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Equal to a share of the largest magnitude; NaN where, and only where, theirs is."""
    assert ours.shape == theirs.shape, name
    scale = theirs[theirs.isfinite()].abs().max().item()
    torch.testing.assert_close(
        ours.double(),
        theirs.double(),
        rtol=0,
        atol=tolerance * scale,
        equal_nan=True,
        msg=lambda text: f"{name}: {text}",
    )


def with_weights(
    recorded: Recorded, code_normalisation: str, dtype: torch.dtype, precision: str = "float32"
) -> Crosscoder:
    latents, _, d_model = recorded["encoder"].shape
    crosscoder = Crosscoder(d_model, latents, LAYER, code_normalisation, precision).to(dtype)
    crosscoder.load_state_dict({name: recorded[name] for name in WEIGHTS}, strict=False)
    return crosscoder


# Codes, reconstructions, masks


@torch.no_grad()
def test_codes_and_reconstructions(recorded: Recorded, dtype: torch.dtype) -> None:
    crosscoder = with_weights(recorded, "crosscoder", dtype)
    codes = crosscoder.encode(recorded["batches"][0].to(dtype))
    check("codes", codes, recorded["codes"], TOLERANCES[dtype])
    check("reconstruction", crosscoder.decode(codes), recorded["reconstruction"], TOLERANCES[dtype])


@torch.no_grad()
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_code_weights_and_codes_above_a_threshold(recorded: Recorded, dtype: torch.dtype, name: str) -> None:
    crosscoder = with_weights(recorded, name, dtype)
    check(
        f"{name}: code weights",
        crosscoder.code_weights(),
        recorded[f"{name}.code_weights"],
        TOLERANCES[dtype],
    )
    crosscoder.threshold.copy_(recorded[f"{name}.threshold"])
    codes = crosscoder.encode(recorded["batches"][0].to(dtype))
    mask = per_model(recorded[f"{name}.above_threshold"])
    check(f"{name}: codes above the threshold", codes, recorded["codes"] * mask.any(dim=1), TOLERANCES[dtype])
    active = Active.of(codes)
    used = [active._replace(values=values).dense() > 0 for values in crosscoder.values_per_model(active)]
    assert torch.equal(torch.stack(used, dim=1), mask)
    check(
        f"{name}: reconstruction above the threshold",
        crosscoder.decode(codes),
        recorded[f"{name}.reconstruction"],
        TOLERANCES[dtype],
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_batchtopk_mask(recorded: Recorded, dtype: torch.dtype, name: str, precision: str) -> None:
    """What the loss selects shows in how often each latent fired and in the reconstruction of every token."""
    crosscoder = with_weights(recorded, name, dtype, precision)
    loss = new_loss(crosscoder, batchtopk_settings(recorded, steps=1, code_normalisation=name))
    parts = loss(crosscoder, recorded["batches"][0].to(dtype), 0)
    mask = per_model(recorded[f"{name}.selected"])
    assert torch.equal(parts.fired, mask.any(dim=1).sum(dim=0))
    codes = recorded["codes"][:, None] * mask
    rebuilt = torch.einsum("bmj,jmd->bmd", codes, recorded["decoder"].double()) + recorded["decoder_bias"]
    check(
        f"{name}: reconstruction from the BatchTopK mask",
        parts.reconstruction.detach(),
        rebuilt,
        TOLERANCES[dtype],
    )


def per_model(mask: Tensor) -> Tensor:
    """(batch, model, latents) from that or from (batch, latents)."""
    return mask if mask.ndim == 3 else mask[:, None].expand(-1, len(MODELS), -1)


# Training: losses of every step, weights after the first step that moves them (warm-up begins at 0), and at
# the end


class Step(NamedTuple):
    """What our trainer has after one step."""

    parts: Tensor  # reconstruction, sparsity or auxiliary, total
    weights: dict[str, Tensor]
    threshold: Tensor
    loss_state: dict[str, Tensor]


def trained(
    recorded: Recorded,
    settings: L1Settings | BatchTopKSettings,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Step]:
    """Our trainer on the recorded weights and batches, step by step."""
    start = with_weights(recorded, settings.code_normalisation, dtype, settings.precision)
    monkeypatch.setattr(trainer, "new_crosscoder", lambda *_: start)
    training = Training(SimpleNamespace(d_model=start.d_model), settings, 0, torch.device("cpu"))
    seen: list[Parts] = []
    training.loss.register_forward_hook(lambda _loss, _arguments, parts: seen.append(parts))
    steps = []
    for batch in recorded["batches"][: settings.steps]:
        training.step(batch)
        parts = seen[-1]
        own = [value for name, value in parts.log.items() if name != "reconstruction_loss"]
        steps.append(
            Step(
                torch.stack([parts.log["reconstruction_loss"], *own, parts.loss]).detach(),
                {
                    name: parameter.detach().clone()
                    for name, parameter in training.crosscoder.named_parameters()
                },
                training.crosscoder.threshold.clone(),
                {name: value.clone() for name, value in training.loss.state_dict().items()},
            )
        )
    return steps


def common_settings(recorded: Recorded, steps: int) -> dict[str, object]:
    batch, latents = recorded["batches"].shape[1], len(recorded["encoder"])
    shape = {"latents": latents, "batch": batch, "tokens": steps * batch}
    return shape | {"learning_rate": 0.01, "warmup_steps": min(2, steps - 1), "precision": "float32"}


def l1_settings(recorded: Recorded, steps: int, **changes: object) -> L1Settings:
    return L1Settings(**common_settings(recorded, steps) | {"loss": "l1", "l1_coefficient": 0.03} | changes)


def batchtopk_settings(recorded: Recorded, steps: int, **changes: object) -> BatchTopKSettings:
    """Their k_aux is half of d_model."""
    own = {
        "loss": "batchtopk",
        "k": 4,
        "auxiliary_k": recorded["encoder"].shape[2] // 2,
        "threshold_start_step": 0,
        "threshold_decay": 0.9,
    }
    return BatchTopKSettings(**common_settings(recorded, steps) | own | changes)


def check_training(case: str, recorded: Recorded, steps: list[Step], tolerance: float) -> None:
    """Loss parts of every step, and weights after two of them."""
    for number, (step, parts) in enumerate(zip(steps, recorded[f"{case}.parts"], strict=True)):
        for name, ours, theirs in zip(
            ("reconstruction", "sparsity or auxiliary", "total"), step.parts, parts, strict=True
        ):
            check(f"{case}: {name} loss of step {number}", ours, theirs, tolerance)
    for number in {1, len(steps) - 1}:
        for name in WEIGHTS:
            check(
                f"{case}: {name} after step {number}",
                steps[number].weights[name],
                recorded[f"{case}.step{number}.{name}"],
                tolerance,
            )


@pytest.mark.parametrize("dense_above", [0.0, 1.0], ids=["dense", "active_entries"])
@pytest.mark.parametrize("name", [*NORMALISATIONS, "squared"])
def test_l1_training(
    recorded: Recorded, dtype: torch.dtype, name: str, dense_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(selection.DENSE_ABOVE, "float32", dense_above)
    kind = {"squared_error": True} if name == "squared" else {"code_normalisation": name}
    settings = l1_settings(recorded, len(recorded[f"l1.{name}.parts"]), **kind)
    check_training(f"l1.{name}", recorded, trained(recorded, settings, dtype, monkeypatch), TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("name", "precision"), [*itertools.product(NORMALISATIONS, ["float32", "bfloat16"]), ("full", "float32")]
)
def test_batchtopk_training(
    recorded: Recorded, dtype: torch.dtype, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training has a geometric median at the start, clipping, a running threshold and counts of silence.

    Products in bfloat16 find the same entries. "full" has dead latents, hence an auxiliary loss. Its k is
    annealed and its learning rate falls. Our threshold_start_step is the first step that counts, theirs the
    last that does not.
    """
    case = f"batchtopk.{name}"
    steps = len(recorded[f"{case}.parts"])
    full = {
        "k_max": 9,
        "k_annealing_steps": 4,
        "decay_fraction": 0.25,
        "dead_after_tokens": 3 * recorded["batches"].shape[1],
    }
    kind = (
        full | {"threshold_start_step": 3}
        if name == "full"
        else {"code_normalisation": name, "threshold_start_step": 1}
    )
    seen = trained(
        recorded, batchtopk_settings(recorded, steps, precision=precision, **kind), dtype, monkeypatch
    )
    check_training(
        case,
        recorded,
        seen,
        max(TOLERANCES[dtype], THEIRS_IN_FLOAT32) if name == "full" else TOLERANCES[dtype],
    )
    thresholds = torch.stack([step.threshold for step in seen])
    check(
        f"{case}: threshold",
        thresholds,
        recorded[f"{case}.thresholds"],
        max(TOLERANCES[dtype], THEIRS_IN_FLOAT32),
    )
    silent = torch.stack([step.loss_state["tokens_since_fired"] for step in seen])
    assert torch.equal(silent, recorded[f"{case}.tokens_since_fired"].long())


@pytest.mark.parametrize(("name", "factor"), [("median", 1.0), ("median_of_100_times", 100.0)])
def test_geometric_median(recorded: Recorded, dtype: torch.dtype, name: str, factor: float) -> None:
    crosscoder = with_weights(recorded, "crosscoder", dtype)
    new_loss(crosscoder, batchtopk_settings(recorded, steps=1)).start(
        crosscoder, factor * recorded["batches"][1].to(dtype)
    )
    check(name, crosscoder.decoder_bias.detach(), recorded[name], TOLERANCES[dtype])


# Scaling of activations


def test_activation_normalisation(recorded: Recorded, tmp_path: Path) -> None:
    """From activation caches to the crosscoder's scale. Ours are float32."""
    x = recorded["batches"].flatten(0, 1)
    numbers, zeros = np.arange(len(x), dtype=np.int32), np.zeros(len(x), np.int8)
    tokens = Shard(
        token=numbers, document=zeros.astype(np.int64), position=numbers, role=zeros, template=zeros
    )
    pq.write_table(pa.table(tokens._asdict()), tmp_path / "tokens.parquet")
    for model, part in zip(MODELS, x.bfloat16().unbind(dim=1), strict=True):
        write_cache(tmp_path / f"{model}.h5", part, LAYER, tokens.token)
    shards = [PairedShard(tmp_path / "tokens.parquet", tmp_path / "base.h5", tmp_path / "chat.h5")]
    settings = l1_settings(recorded, steps=1, normalisation=Normalisation(kind="per_model", target_rms=2.0))
    crosscoder = new_crosscoder(PairedActivations(shards, summarise(shards, Activations())), settings, seed=0)
    check(
        "normalised activations",
        crosscoder.normalise(recorded["batches"][0].bfloat16()),
        recorded["normalised"],
        1e-6,
    )


# Latent scaling


@pytest.mark.parametrize("case", ["l1", "batchtopk"])
def test_latent_scaling(recorded: Recorded, dtype: torch.dtype, case: str) -> None:
    """Every latent's betas."""
    crosscoder = with_weights(recorded, "crosscoder", dtype)
    if case == "batchtopk":
        crosscoder.threshold.copy_(recorded["crosscoder.threshold"])
    blocks = encoded(crosscoder, recorded["batches"], document_tokens=1)
    table = latent_scaling(
        crosscoder, blocks, sum(map(len, recorded["batches"])), Bootstrap(blocks=10, samples=2)
    )
    active = recorded[f"scaling.{case}.active_tokens"]
    assert table["active_tokens"].tolist() == active.tolist()
    assert active[0] == 0
    for target in TARGETS:
        for model in MODELS:
            name = f"beta_{target}_{model}"
            theirs = recorded[f"scaling.{case}.{name}"]
            assert torch.equal(theirs.isnan(), active == 0)
            check(f"{case}: {name}", torch.tensor(table[name]), theirs, TOLERANCES[dtype])
