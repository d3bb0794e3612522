"""What latent scaling costs: all latents, four targets and both models in one pass, against encoding alone and against a pass per target.

.venv/bin/python benchmarks/latent_scaling.py [--json] [--width 2304 --latents 73728 --k 100 --tokens 65536]

Shape: 576 x 2, 16,384 latents, 50 active; the values above are for a GPU. The method of one pass per target (docs/method.md 9) is written
here with dense matrices; its leave-one-out error of a latent needs a (tokens, d_model) target of its own, so it is timed on fewer latents
and tokens and compared per latent and token.
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from turns import in_turn, show

from crossdiff.activations.pairs import Block
from crossdiff.config import BatchTopKSettings, Bootstrap
from crossdiff.crosscoders import selection
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.device import device
from crossdiff.latents.scaling import latent_scaling

BLOCK = 2_048
FEW_LATENTS, FEW_TOKENS = 256, 512  # of the pass per target


def crosscoder(x: Tensor, latents: int, k: int) -> Crosscoder:
    """At its start, with a threshold that keeps ``k`` latents per token."""
    settings = BatchTopKSettings(loss="batchtopk", k=k, latents=latents, tokens=10**9)
    made = Crosscoder(x.shape[2], latents, 0, precision="bfloat16")
    made.initialise(settings, torch.Generator().manual_seed(0))
    made.to(x.device).requires_grad_(False)
    smallest = selection.largest(made.encoder_map(), x[:BLOCK].flatten(1), made.code_weights()[:, None], k * len(x[:BLOCK]))[2]
    made.threshold.copy_(smallest[0])
    return made


@torch.no_grad()
def per_target(made: Crosscoder, x: Tensor, latents: Tensor) -> None:
    """beta of ``latents`` for four targets and both models, each with an encoding of its own."""
    direction = made.decoder[latents, 1]
    for model in range(2):
        for target in ("reconstruction", "error", "activation", "activation_no_bias"):
            codes = made.encode(x)
            f = codes[:, latents]
            if target == "reconstruction":
                sums = f.T @ made.decode(codes)[:, model]
            elif target == "error":
                own = f.T[:, :, None] * made.decoder[latents, None, model]  # (latents, tokens, d_model)
                sums = torch.einsum("jnd,nj->jd", (x - made.decode(codes))[None, :, model] + own, f)
            else:
                sums = f.T @ (x[:, model] - (made.decoder_bias[model] if target == "activation_no_bias" else 0))
            _ = (direction * sums).sum(dim=1) / (direction.square().sum(dim=1) * f.square().sum(dim=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=131_072)
    arguments = parser.parse_args()
    tokens, latents = arguments.tokens, arguments.latents
    x = torch.randn(tokens, 2, arguments.width, generator=torch.Generator().manual_seed(1)).to(device())
    made = crosscoder(x, latents, arguments.k)
    blocks = [Block(part, np.arange(len(part)) // 200 + BLOCK * number) for number, part in enumerate(x.split(BLOCK))]
    few = torch.arange(FEW_LATENTS, device=x.device)
    seconds = in_turn(
        {
            "encode": lambda: [made.active(made.normalise(block.activations)) for block in blocks],
            "ours": lambda: latent_scaling(made, blocks, tokens, Bootstrap()),
            "per target": lambda: per_target(made, x[:FEW_TOKENS], few),
        },
        arguments.rounds,
    )
    ours = seconds["ours"] / (tokens * latents)
    theirs = seconds["per target"] / (FEW_TOKENS * FEW_LATENTS)
    row = {
        "encode s": seconds["encode"],
        "all latents, four targets, intervals s": seconds["ours"],
        "ours / encode": seconds["ours"] / seconds["encode"],
        "ours ns per latent and token": 1e9 * ours,
        "a pass per target ns per latent and token": 1e9 * theirs,
        "per target / ours": theirs / ours,
    }
    show([row], arguments.json)


if __name__ == "__main__":
    main()
