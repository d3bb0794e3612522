"""Time a training step: ours against plain dense PyTorch, the encoder product alone and the authors' code.

.venv/bin/python benchmarks/training.py [--json] [--sweep | --all] [--small] [--authors CHECKOUT]

CHECKOUT is a copy of science-of-finetuning/dictionary_learning with the packages it needs. Without it, their
code is left out. The shape is 576 x 2, with 16,384 latents and a batch of 2,048. --all times every loss
instead, as a ratio over BatchTopK with as many active latents. --small takes a quarter of latents and batch.
"""

import argparse
import itertools
import resource
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from turns import in_turn, show

from crossdiff.config import LOSSES, crosscoder_settings
from crossdiff.config.crosscoders import PenaltyKeys, TopKKeys
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.optimiser import new_optimiser
from crossdiff.device import device, keep_freed_memory

WIDTH, LATENTS, BATCH, K, L1_L0 = 576, 16_384, 2_048, 50, 100
L1_COEFFICIENT = 0.04
# What each loss needs apart from k or the coefficient of its penalty.
OWN = {
    "designated": {"designated": {"share": 0.5}},
    "designated_l1": {"designated": {"share": 0.5}},
    "jumprelu": {"l0_coefficient": 1e-3},
    "delta": {"shared": 0.5},
    "bridge": {"coupling": -0.5, "squared_error": True},
}


def ours(loss: str, x: Tensor, latents: int, k: int, precision: str = "bfloat16") -> Callable[[], object]:
    """Take one step of our training with ``k`` active latents: loss, gradients, clipping, Adam."""
    values = {
        "loss": loss,
        "latents": latents,
        "batch": len(x),
        "tokens": 10**9,
        "precision": precision,
        "init_norm": 1.0,
        "learning_rate": 1e-5,
    } | OWN.get(loss, {})
    if loss == "delta":
        values |= {"k": k // 2, "delta_k": k - k // 2}
    elif issubclass(LOSSES[loss], TopKKeys):
        values["k"] = k
    elif issubclass(LOSSES[loss], PenaltyKeys):
        values["l1_coefficient"] = L1_COEFFICIENT
    else:
        values["initial_l0"] = k
    settings = crosscoder_settings(values)
    crosscoder = Crosscoder(WIDTH, latents, 0, precision=precision)
    crosscoder.initialise(settings, torch.Generator().manual_seed(0))
    crosscoder.to(x.device)
    objective = new_loss(crosscoder, settings).to(x.device)
    if isinstance(settings, PenaltyKeys):
        set_l0(crosscoder.preactivations, crosscoder.encoder_bias, x, k)
    objective.start(crosscoder, crosscoder.normalise(x))
    optimiser = new_optimiser(crosscoder, objective)
    # Batches differ, as in a training. With only one, values of chosen entries would crowd at the smallest of
    # them.
    different = [x, *(torch.randn_like(x) for _ in range(7))]
    batches = itertools.cycle([crosscoder.normalise(batch) for batch in different])

    def step() -> None:
        objective(crosscoder, next(batches), 2000).loss.backward()
        optimiser.update(settings.learning_rate, settings.gradient_clip)

    return step


@torch.no_grad()
def set_l0(preactivations: Callable[[Tensor], Tensor], bias: Tensor, x: Tensor, l0: int) -> None:
    """Lower the bias until ``l0`` latents per token are positive."""
    sample = preactivations(x[:64]).flatten()
    bias -= sample.topk(64 * l0).values.min()


def dense(loss: str, x: Tensor, latents: int, k: int) -> Callable[[], object]:
    """Take the same step in the straightforward way: dense matrices, autograd, Adam, float32."""
    generator = torch.Generator(x.device).manual_seed(0)
    encoder = torch.randn(2 * WIDTH, latents, generator=generator, device=x.device)
    encoder = torch.nn.Parameter((encoder / encoder.norm(dim=0)).to(x.device))
    decoder = torch.nn.Parameter(encoder.detach().T.clone().contiguous())
    bias, decoder_bias = (
        torch.nn.Parameter(torch.zeros(size, device=x.device)) for size in (latents, 2 * WIDTH)
    )
    flat = x.flatten(1)
    if loss == "l1":
        set_l0(lambda rows: rows.flatten(1) @ encoder + bias, bias.data, x, k)
    optimiser = torch.optim.Adam([encoder, decoder, bias, decoder_bias], lr=1e-5)

    def step() -> None:
        codes = torch.relu(flat @ encoder + bias)
        norms = decoder.view(latents, 2, WIDTH).norm(dim=2).sum(dim=1)
        if loss == "batchtopk":
            top = (codes * norms).flatten().topk(k * len(x), sorted=False).indices
            codes = torch.zeros_like(codes.flatten()).scatter(0, top, codes.flatten()[top]).view_as(codes)
        error = (x - (codes @ decoder + decoder_bias).view_as(x)).norm(dim=2).mean()
        value = error if loss == "batchtopk" else error + L1_COEFFICIENT * (codes * norms).sum(dim=1).mean()
        optimiser.zero_grad()
        value.backward()
        if loss == "batchtopk":
            torch.nn.utils.clip_grad_norm_([encoder, decoder, bias, decoder_bias], 1.0)
        optimiser.step()

    return step


def product(x: Tensor, latents: int) -> Callable[[], object]:
    """Compute the bfloat16 encoder product alone."""
    weight = torch.randn(latents, 2 * WIDTH, device=x.device).bfloat16()
    rows = x.flatten(1).bfloat16()
    return lambda: rows @ weight.T


def authors(path: str, loss: str, x: Tensor, latents: int, k: int) -> Callable[[], object]:
    """Take a step of the authors' trainer, from a checkout."""
    for name, wanted in {
        "nnsight": ["LanguageModel"],
        "datasets": ["Dataset", "load_dataset"],
        "zstandard": [],
    }.items():
        if name not in sys.modules:  # imported there, not needed here
            sys.modules[name] = ModuleType(name)
            for attribute in wanted:
                setattr(sys.modules[name], attribute, object)
    sys.path.insert(0, path)
    from dictionary_learning.trainers.crosscoder import BatchTopKCrossCoderTrainer, CrossCoderTrainer

    shared = {
        "activation_dim": WIDTH,
        "dict_size": latents,
        "lr": 1e-5,
        "layer": 13,
        "lm_name": "none",
        "device": str(x.device),
    }
    start = {"same_init_for_all_layers": True, "init_with_transpose": True, "norm_init_scale": 1.0}
    if loss == "l1":
        trainer = CrossCoderTrainer(
            l1_penalty=L1_COEFFICIENT, warmup_steps=10, dict_class_kwargs=start, **shared
        )
    else:
        trainer = BatchTopKCrossCoderTrainer(
            steps=10_000,
            k=k,
            k_max=k,
            k_annealing_steps=0,
            warmup_steps=10,
            dict_class_kwargs=start,
            **shared,
        )
    done = iter(range(10_000))
    return lambda: trainer.update(next(done), x.clone())


def compare(x: Tensor, checkout: str | None, rounds: int) -> list[dict[str, object]]:
    rows = []
    for loss, k in (("batchtopk", K), ("l1", L1_L0)):
        steps = {"ours": ours(loss, x, LATENTS, k)}
        steps["ours"]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # before anything dense has run
        steps |= {"ours, float32": ours(loss, x, LATENTS, k, "float32"), "dense": dense(loss, x, LATENTS, k)}
        steps["product"] = product(x, LATENTS)
        if checkout:
            steps["authors"] = authors(checkout, loss, x, LATENTS, k)
        seconds = in_turn(steps, rounds)
        rows.append(
            {"step": f"{loss}, {k} active"}
            | {f"{name} ms": 1e3 * value for name, value in seconds.items()}
            | {
                "dense / ours": seconds["dense"] / seconds["ours"],
                "ours / product": seconds["ours"] / seconds["product"],
            }
            | ({"authors / ours": seconds["authors"] / seconds["ours"]} if checkout else {})
            | ({"peak GB": peak} if loss == "batchtopk" else {"peak GB": float("nan")})
        )
    return rows


def sweep(x: Tensor, rounds: int) -> list[dict[str, object]]:
    """Time a BatchTopK step as latents and active latents grow; give the exponents of fitted powers."""
    sizes, actives = (4096, 8192, 16_384, 32_768, 65_536), (16, 32, 64, 128, 256)
    by_size = [in_turn({"step": ours("batchtopk", x, latents, K)}, rounds)["step"] for latents in sizes]
    by_active = [in_turn({"step": ours("batchtopk", x, LATENTS, k)}, rounds)["step"] for k in actives]
    rows = [
        {"latents": latents, "k": K, "ms": 1e3 * seconds}
        for latents, seconds in zip(sizes, by_size, strict=True)
    ]
    rows += [
        {"latents": LATENTS, "k": k, "ms": 1e3 * seconds}
        for k, seconds in zip(actives, by_active, strict=True)
    ]
    for name, values, seconds in (("latents", sizes, by_size), ("k", actives, by_active)):
        slope = np.polyfit(np.log(values), np.log(seconds), 1)[0]
        rows.append({"latents": "fitted power", "k": f"of {name}", "ms": float(slope)})
    return rows


def every(x: Tensor, latents: int, rounds: int) -> list[dict[str, object]]:
    """Time a step of every loss at equal latents and active latents."""
    seconds = in_turn({loss: ours(loss, x, latents, K) for loss in LOSSES}, rounds)
    return [
        {"loss": loss, "ms": 1e3 * value, "over batchtopk": value / seconds["batchtopk"]}
        for loss, value in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--all", action="store_true", help="every loss, as a ratio over BatchTopK")
    parser.add_argument("--small", action="store_true", help="with --all: 4,096 latents, a batch of 512")
    parser.add_argument("--authors", metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    smaller = 4 if arguments.small else 1
    x = torch.randn(BATCH // smaller, 2, WIDTH, generator=torch.Generator().manual_seed(1)).to(device())
    if arguments.all:
        rows = every(x, LATENTS // smaller, arguments.rounds)
    elif arguments.sweep:
        rows = sweep(x, arguments.rounds)
    else:
        rows = compare(x, arguments.authors, arguments.rounds)
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
