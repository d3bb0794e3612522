"""Time a training step at the paper's shape on a GPU, as the trainer takes it.

python benchmarks/step.py [--json] [--authors CHECKOUT] [--width 2304 --latents 73728 --batch 2048 --k 100]

It is compared with plain dense PyTorch and, with --authors, the authors' trainer. Activations lie on the
device. Steps follow each other as in a training, without waiting for the host. CHECKOUT is explained in
training.py.
"""

import argparse
import gc
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import training as plain
from torch import Tensor
from turns import queued, show

from crossdiff.activations.pairs import Summary
from crossdiff.config import BatchTopKSettings, CrosscoderSettings, L1Settings
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device, keep_freed_memory

AUXILIARY_K, DEAD = 512, 0.1
SLOWER = 4  # dense steps are this many times fewer in a row
LAYER = 13


class Given(NamedTuple):
    """Stands in for paired caches: has what a trainer asks of them, but is handed its batches."""

    d_model: int
    layer: int
    summary: Summary

    @classmethod
    def of(cls, x: Tensor) -> "Given":
        """Describe activations like ``x`` (batch, model, d_model), which are taken as they are."""
        return cls(
            x.shape[2],
            LAYER,
            Summary(LAYER, 0, None, [1.0, 1.0], [[0.0] * x.shape[2]] * 2, [1.0, 1.0], 1, 0, 0),
        )


def settings(loss: str, latents: int, batch: int, k: int) -> CrosscoderSettings:
    common = {
        "latents": latents,
        "batch": batch,
        "tokens": 10**10,
        "learning_rate": 1e-5,
        "log_every": 10**6,
        "init_norm": 1.0,
    }
    if loss == "l1":
        return L1Settings(loss="l1", l1_coefficient=plain.L1_COEFFICIENT, **common)
    return BatchTopKSettings(loss="batchtopk", k=k, auxiliary_k=AUXILIARY_K, **common)


def prepared(loss: str, x: Tensor, latents: int, k: int) -> Training:
    """Make a training that took its first step; with L1, ``k`` latents per token are active."""
    training = Training(Given.of(x), settings(loss, latents, len(x), k), 0, x.device)
    if loss == "l1":
        plain.set_l0(training.crosscoder.preactivations, training.crosscoder.encoder_bias, x, k)
    training.step(x)
    return training


@torch.no_grad()
def let_die(training: Training, share: float) -> None:
    """Make the first latents never fire again, and count as dead from now on."""
    dead = slice(0, int(share * training.crosscoder.latents))
    training.crosscoder.encoder_bias[dead] = -1e4
    training.loss.tokens_since_fired[dead] = training.settings.dead_after_tokens
    training.loss.tokens_until_dead = 0


def free() -> None:
    """Give a GPU's memory back, and reset its peak."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ours(loss: str, x: Tensor, latents: int, k: int, steps: int) -> dict[str, float]:
    """Time a step. For BatchTopK also time it with dead latents, and give the peak of memory (GB) in both."""
    training = prepared(loss, x, latents, k)
    # Batches differ, as in a training. With only one, values of chosen entries would crowd at the smallest of
    # them.
    batches = itertools.cycle([x, *(torch.randn_like(x) for _ in range(7))])
    found = {loss: queued(lambda: training.step(next(batches)), steps)}
    if loss == "batchtopk":
        found |= peak("peak GB")
        let_die(training, DEAD)
        found["batchtopk, dead latents"] = queued(lambda: training.step(next(batches)), steps)
        found |= peak("peak GB, dead latents")
    return found


def peak(name: str) -> dict[str, float]:
    """Give a GPU's largest use of memory since ``free``."""
    return {name: torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_initialized() else {}


def with_tf32(step: Callable[[], object], calls: int, allowed: bool = True) -> float:
    """Time a step whose float32 products may be rounded to TF32."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, allowed
    try:
        return queued(step, calls)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def dense(loss: str, x: Tensor, latents: int, k: int, steps: int) -> dict[str, float]:
    """Time a dense step, with its products in bfloat16 by autocast, and in TF32."""
    step = plain.dense(loss, x, latents, k)

    def autocast() -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            step()

    return {f"{loss}, dense bfloat16": queued(autocast, steps), f"{loss}, dense TF32": with_tf32(step, steps)}


def authors(checkout: str, loss: str, x: Tensor, latents: int, k: int, steps: int) -> dict[str, float]:
    """Time a step of the authors' trainer, with TF32 and as it is."""
    step = plain.authors(checkout, loss, x, latents, k)
    return {
        f"{loss}, authors TF32": with_tf32(step, steps),
        f"{loss}, authors": with_tf32(step, steps, allowed=False),
    }


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Compute the ratios that the table shows."""
    found = {
        "dense bfloat16 / ours": seconds["batchtopk, dense bfloat16"] / seconds["batchtopk"],
        "dense TF32 / ours": seconds["batchtopk, dense TF32"] / seconds["batchtopk"],
        "with dead latents / without": seconds["batchtopk, dead latents"] / seconds["batchtopk"],
        "ours / encoder product": seconds["batchtopk"] / seconds["encoder product"],
        "l1: dense bfloat16 / ours": seconds["l1, dense bfloat16"] / seconds["l1"],
    }
    if "batchtopk, authors" in seconds:
        found["authors TF32 / ours"] = seconds["batchtopk, authors TF32"] / seconds["batchtopk"]
        found["authors / ours"] = seconds["batchtopk, authors"] / seconds["batchtopk"]
    return found


def measure(x: Tensor, latents: int, k: int, steps: int, checkout: str | None) -> dict[str, Any]:
    """Give times in ms, peaks of memory and ratios."""
    plain.WIDTH, fewer = x.shape[2], max(1, steps // SLOWER)
    parts: list[Callable[[], dict[str, float]]] = [
        lambda: {"encoder product": queued(plain.product(x, latents), steps)}
    ]
    for loss in ("batchtopk", "l1"):
        parts += [
            lambda loss=loss: ours(loss, x, latents, k, steps),
            lambda loss=loss: dense(loss, x, latents, k, fewer),
        ]
    if checkout:
        parts.append(lambda: authors(checkout, "batchtopk", x, latents, k, fewer))
    found: dict[str, float] = {}
    for part in parts:
        free()
        found |= part()
    seconds = {name: value for name, value in found.items() if not name.startswith("peak")}
    return (
        {f"{name} ms": 1e3 * value for name, value in seconds.items()}
        | {name: value for name, value in found.items() if name not in seconds}
        | ratios(seconds)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--authors", metavar="CHECKOUT")
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--latents", type=int, default=73_728)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20, help="in a row")
    arguments = parser.parse_args()
    keep_freed_memory()
    x = torch.randn(arguments.batch, 2, arguments.width, generator=torch.Generator().manual_seed(1)).to(
        device()
    )
    show([measure(x, arguments.latents, arguments.k, arguments.steps, arguments.authors)], arguments.json)


if __name__ == "__main__":
    main()
