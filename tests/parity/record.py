"""Record what the paper authors' code gives on small random weights and activations.

It only calls their classes and functions by name: README.md tells which, and how to run this.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import torch
from safetensors.torch import save_file
from torch import Tensor

NORMALISATIONS = ("crosscoder", "sae", "mixed", "none", "decoupled")
TARGETS = ("reconstruction", "error", "activation", "activation_no_bias")
# imported, never called
UNUSED = ["nnsight", "zstandard", "datasets", "loguru", "tools.utils", "tools.cc_utils", "tools.configs"]
UNUSED += ["tools.latent_scaler.scaler_training"]
LEARNING_RATE, L1_COEFFICIENT, K = 0.01, 0.03, 4


class Theirs:
    """The authors' modules, from two checkouts."""

    def __init__(self, dictionary_learning: Path, sparsity_artifacts: Path) -> None:
        sys.modules |= {name: MagicMock() for name in UNUSED}
        sys.path[:0] = [str(dictionary_learning), str(sparsity_artifacts)]
        from dictionary_learning import cache, dictionary
        from dictionary_learning.trainers import crosscoder as trainers

        self.cache, self.dictionary, self.trainers = cache, dictionary, trainers
        # By its path, since its package imports every other script.
        script = importlib.util.spec_from_file_location(
            "compute_scalers", sparsity_artifacts / "scripts/compute_scalers.py"
        )
        self.scalers = importlib.util.module_from_spec(script)
        script.loader.exec_module(self.scalers)
        torch.set_grad_enabled(True)  # which the script turned off


def inputs(seed: int, d_model: int, latents: int, batch: int, steps: int) -> dict[str, Tensor]:
    """Make weights (latents first) and batches (steps, batch, model, d_model).

    Batches are exact in bfloat16, as in an activation cache. Decoder norms spread over two decades, so that
    code normalisations differ and some latents are never selected. Latent 0 never fires.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(latents, 2, d_model, generator=generator) / d_model**0.5
    decoder = torch.randn(latents, 2, d_model, generator=generator) / d_model**0.5
    decoder *= 10 ** (2 * torch.rand(latents, 1, 1, generator=generator) - 1.5) * (
        0.3 + torch.rand(latents, 2, 1, generator=generator)
    )
    encoder_bias = torch.randn(latents, generator=generator) / 4
    encoder[0], encoder_bias[0] = 0, -1
    decoder_bias = torch.randn(2, d_model, generator=generator) / 2
    batches = (
        torch.randn(steps, batch, 2, d_model, generator=generator) * torch.tensor([1.0, 1.5])[:, None] + 0.3
    )
    batches[:, :, 1] += batches[:, :, 0] / 2
    weights = {
        "encoder": encoder,
        "encoder_bias": encoder_bias,
        "decoder": decoder,
        "decoder_bias": decoder_bias,
    }
    return weights | {"batches": batches.bfloat16().float()}


def loaded(kind: type, given: dict[str, Tensor], normalisation: str, **arguments: object) -> torch.nn.Module:
    """One of their crosscoders with the given weights, float64."""
    latents, models, d_model = given["encoder"].shape
    crosscoder = kind(d_model, latents, models, code_normalization=normalisation, **arguments).double()
    crosscoder.encoder.weight.data = given["encoder"].permute(1, 2, 0).double()
    crosscoder.encoder.bias.data = given["encoder_bias"].double()
    crosscoder.decoder.weight.data = given["decoder"].permute(1, 0, 2).double()
    crosscoder.decoder.bias.data = given["decoder_bias"].double()
    return crosscoder


def weights(crosscoder: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """Their weights, latents first."""
    tensors = {
        "encoder": crosscoder.encoder.weight.permute(2, 0, 1),
        "encoder_bias": crosscoder.encoder.bias,
        "decoder": crosscoder.decoder.weight.permute(1, 0, 2),
        "decoder_bias": crosscoder.decoder.bias,
    }
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def between(values: Tensor, share: float) -> Tensor:
    """Give a bound above ``share`` of the positive values, halfway between two: rounding decides nothing."""
    ordered = values[values > 0].sort().values
    middle = int(share * len(ordered))
    return ordered[middle - 1 : middle + 1].mean()


@torch.no_grad()
def codes(theirs: Theirs, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give codes and reconstructions of the first batch.

    Per code normalisation it also gives the weights, the mask by BatchTopK, and a threshold that 60 % of the
    positive scaled activations exceed, with mask and reconstruction above it. Decoupled, all but the codes
    have a model axis.
    """
    x = given["batches"][0].double()
    l1 = loaded(theirs.dictionary.CrossCoder, given, "crosscoder")
    found = {"codes": l1.encode(x)}
    found["reconstruction"] = l1.decode(found["codes"])
    for name in NORMALISATIONS:
        crosscoder = loaded(theirs.dictionary.BatchTopKCrossCoder, given, name, k=K)
        rows = (
            crosscoder.get_code_normalization()
            .expand(2 if name == "decoupled" else 1, crosscoder.dict_size)
            .double()
        )
        thresholds = torch.stack([between(found["codes"] * row, 0.4) for row in rows])
        crosscoder.threshold.copy_(thresholds.view_as(crosscoder.threshold))
        above = crosscoder.encode(x, use_threshold=True)
        found |= {
            f"{name}.code_weights": rows.T.clone() if name == "decoupled" else rows[0].clone(),
            f"{name}.selected": crosscoder.encode(x, use_threshold=False) > 0,
            f"{name}.threshold": crosscoder.threshold.clone(),
            f"{name}.above_threshold": above > 0,
            f"{name}.reconstruction": crosscoder.decode(above),
        }
    return found


def train_l1(
    theirs: Theirs, given: dict[str, Tensor], case: str, normalisation: str, squared: bool, steps: int
) -> dict[str, Tensor]:
    """Loss parts of every step, weights after the second (the first that moves them) and the last."""
    crosscoder = loaded(theirs.dictionary.CrossCoder, given, normalisation)
    trainer = theirs.trainers.CrossCoderTrainer(
        lr=LEARNING_RATE,
        l1_penalty=L1_COEFFICIENT,
        warmup_steps=min(2, steps - 1),
        use_mse_loss=squared,
        pretrained_ae=crosscoder,
        layer=0,
        lm_name="",
        device="cpu",
    )
    parts, found = [], {}
    for step, x in enumerate(given["batches"][:steps].double()):
        losses = trainer.loss(x.clone(), logging=True).losses
        parts.append([losses["mse_loss" if squared else "l2_loss"], losses["sparsity_loss"], losses["loss"]])
        trainer.update(step, x.clone())
        if step in (1, steps - 1):
            found |= weights(crosscoder, f"{case}.step{step}")
    return found | {f"{case}.parts": torch.tensor(parts, dtype=torch.float64)}


def train_batchtopk(
    theirs: Theirs,
    given: dict[str, Tensor],
    case: str,
    normalisation: str,
    steps: int,
    dead_after: int | None = None,
    **arguments: object,
) -> dict[str, Tensor]:
    """The same, and the threshold and the tokens since each latent fired after every step."""
    crosscoder = loaded(theirs.dictionary.BatchTopKCrossCoder, given, normalisation)
    trainer = theirs.trainers.BatchTopKCrossCoderTrainer(
        steps=steps,
        activation_dim=crosscoder.activation_dim,
        dict_size=crosscoder.dict_size,
        lr=LEARNING_RATE,
        warmup_steps=min(2, steps - 1),
        threshold_beta=0.9,
        pretrained_ae=crosscoder,
        layer=0,
        lm_name="",
        device="cpu",
        **arguments,
    )
    if dead_after is not None:
        trainer.dead_feature_threshold = dead_after
    # the first update does so too, after our look
    crosscoder.decoder.bias.data = trainer.geometric_median(given["batches"][0].double())
    found, parts, thresholds, unfired = {}, [], [], []
    for step, x in enumerate(given["batches"][:steps].double()):
        counts = trainer.num_tokens_since_fired.clone()
        losses = trainer.loss(x.clone(), step=step, logging=True).losses
        parts.append([losses["l2_loss"], losses["auxk_loss"], losses["loss"]])
        trainer.num_tokens_since_fired.copy_(counts)  # asking for the parts counts tokens too
        trainer.update(step, x.clone())
        thresholds.append(crosscoder.threshold.tolist())
        unfired.append(trainer.num_tokens_since_fired.clone())
        if step in (1, steps - 1):
            found |= weights(crosscoder, f"{case}.step{step}")
    return found | {
        f"{case}.parts": torch.tensor(parts, dtype=torch.float64),
        f"{case}.thresholds": torch.tensor(thresholds, dtype=torch.float64),
        f"{case}.tokens_since_fired": torch.stack(unfired).int(),
    }


def medians(theirs: Theirs, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Geometric medians of the second batch, as it is and at the scale of a residual stream."""
    median = theirs.trainers.BatchTopKCrossCoderTrainer.geometric_median
    x = given["batches"][1].double()
    return {"median": median(x), "median_of_100_times": median(100 * x)}


def normalised(theirs: Theirs, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first batch on a scale of 2 per model, statistics over all batches."""
    x = given["batches"].flatten(0, 1)
    statistics = theirs.cache.RunningStatWelford(tuple(x.shape[1:]))
    for batch in given["batches"]:
        statistics.update(batch)
    crosscoder = theirs.dictionary.CrossCoder(
        x.shape[2],
        len(given["encoder"]),
        2,
        activation_mean=statistics.mean,
        activation_std=statistics.std(unbiased=False),
        target_rms=2.0,
    )
    return {"normalised": crosscoder.normalize_activations(given["batches"][0].double())}


def betas(
    theirs: Theirs, given: dict[str, Tensor], case: str, kind: str, threshold: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Every beta of every latent over all batches, and how many tokens each latent was active on."""
    crosscoder = loaded(getattr(theirs.dictionary, kind), given, "crosscoder")
    if threshold is not None:
        crosscoder.threshold.copy_(threshold)
    base, chat = crosscoder.decoder.weight.detach()
    for model in ("base", "chat"):
        for target in TARGETS:
            load = getattr(theirs.scalers, f"load_{model}_{target}")
            if (model, target) == ("base", "error"):
                load = partial(load, base_decoder=base)
            beta, active, *_ = theirs.scalers.closed_form_scalars(
                chat,
                torch.arange(len(chat)),
                given["batches"],
                crosscoder,
                load,
                device="cpu",
                dtype=torch.float64,
            )
            yield f"{case}.beta_{target}_{model}", beta
    yield f"{case}.active_tokens", active.long()


def record(theirs: Theirs, seed: int, d_model: int, latents: int, batch: int) -> dict[str, Tensor]:
    """Inputs and everything that their code gives."""
    given = inputs(seed, d_model, latents, batch, steps=8)
    found = codes(theirs, given)
    for name in NORMALISATIONS:
        steps = 4 if name == "crosscoder" else 2
        found |= train_l1(theirs, given, f"l1.{name}", name, squared=False, steps=steps)
        found |= train_batchtopk(
            theirs, given, f"batchtopk.{name}", name, steps=steps, k=K, threshold_start_step=0
        )
    found |= train_l1(theirs, given, "l1.squared", "crosscoder", squared=True, steps=4)
    # Latents are dead after three batches. k falls from 9 to 4 over four steps. The learning rate falls to 0
    # over the last two of eight steps.
    full = {"k": K, "k_max": 2 * K + 1, "k_annealing_steps": 4, "decay_start": 6, "threshold_start_step": 2}
    found |= train_batchtopk(
        theirs, given, "batchtopk.full", "crosscoder", steps=8, dead_after=3 * batch, **full
    )
    found |= medians(theirs, given) | normalised(theirs, given)
    found |= dict(betas(theirs, given, "scaling.l1", "CrossCoder", None))
    found |= dict(
        betas(theirs, given, "scaling.batchtopk", "BatchTopKCrossCoder", found["crosscoder.threshold"])
    )
    return given | found


def commit(checkout: Path) -> str:
    return subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    dictionary_learning, sparsity_artifacts, out = map(Path, sys.argv[1:])
    tensors = record(Theirs(dictionary_learning, sparsity_artifacts), seed=0, d_model=8, latents=40, batch=32)
    made_with = {
        "dictionary_learning": commit(dictionary_learning),
        "sparsity_artifacts_crosscoders": commit(sparsity_artifacts),
        "torch": torch.__version__,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out, made_with)
