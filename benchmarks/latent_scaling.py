"""Time latent scaling of all latents, four targets and both models in one pass.

It is compared with encoding alone and with a pass per target.

.venv/bin/python benchmarks/latent_scaling.py [--json] [--width 2304 --latents 73728 --k 100 --tokens 819200]

The shape is 576 x 2, with 16,384 latents, 50 of them active. On a GPU use the paper's: 2,304 x 2 with 73,728
latents, 100 of them active. Blocks are read from host memory as bfloat16, as from a cache, and some tokens
repeat. "Written" adds the file of active entries, which every other rule reads. The method with one pass per
target (docs/method.md 9) is written here with dense matrices. Its leave-one-out error of a latent needs a
(tokens, d_model) target of its own. It is therefore timed on fewer latents and tokens, and compared per
latent and token.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from turns import in_turn, show

from crossdiff.activations.pairs import Block
from crossdiff.config import BatchTopKSettings, Bootstrap
from crossdiff.crosscoders import selection
from crossdiff.crosscoders.active_file import active_writer
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.device import device
from crossdiff.latents.scaling import latent_scaling
from crossdiff.texts.shards import Shard

# TOKENS gives blocks of documents some length, since the sums of each block are projected once.
WIDTH, LATENTS, K, TOKENS = (
    (2304, 73_728, 100, 50 * 32_768) if device().type == "cuda" else (576, 16_384, 50, 131_072)
)
DIFFERENT, BLOCK, DOCUMENT = 65_536, 2_048, 200  # tokens
FEW_LATENTS, FEW_TOKENS = 256, 512  # for the pass per target


def blocks(x: Tensor) -> Iterator[Block]:
    """Give blocks of TOKENS tokens in total, which repeat ``x``."""
    for start in range(0, TOKENS, BLOCK):
        rows = np.arange(start, start + BLOCK)
        place = start % len(x)
        yield Block(x[place : place + BLOCK], rows // DOCUMENT, 0, rows)


def tokens() -> Shard:
    """Make a shard of documents of one length."""
    row = np.arange(TOKENS)
    return Shard(row, row // DOCUMENT, row % DOCUMENT, np.zeros(TOKENS, np.int8), np.zeros(TOKENS, np.int8))


def scale(made: Crosscoder, x: Tensor, path: Path | None = None) -> None:
    """Run latent scaling as the rule does, with or without the file."""
    if path is None:
        latent_scaling(made, encode(made, blocks(x)), TOKENS, Bootstrap())
        return
    with active_writer(path, [tokens()]) as writer:
        latent_scaling(made, encode(made, blocks(x), writer), TOKENS, Bootstrap())


def drained(made: Crosscoder, x: Tensor) -> None:
    """Encode and do nothing else."""
    for part in encode(made, blocks(x)):
        last = part
    last.active.values.sum().item()  # .item(): wait for the device


def crosscoder(x: Tensor) -> Crosscoder:
    """Make an untrained crosscoder with a threshold that keeps K latents per token."""
    settings = BatchTopKSettings(loss="batchtopk", k=K, latents=LATENTS, tokens=10**9)
    made = Crosscoder(WIDTH, LATENTS, 0, precision="bfloat16")
    made.initialise(settings, torch.Generator().manual_seed(0))
    made.to(x.device).requires_grad_(False)
    smallest = selection.largest(
        made.encoder_map(), x[:BLOCK].flatten(1), made.code_weights()[:, None], K * len(x[:BLOCK])
    )[2]
    made.threshold.copy_(smallest[0])
    return made


@torch.no_grad()
def per_target(made: Crosscoder, x: Tensor, latents: Tensor) -> None:
    """Give beta of ``latents`` for four targets and both models, each target with its own encoding."""
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
                sums = f.T @ (
                    x[:, model] - (made.decoder_bias[model] if target == "activation_no_bias" else 0)
                )
            _ = (direction * sums).sum(dim=1) / (direction.square().sum(dim=1) * f.square().sum(dim=0))


def main() -> None:
    global WIDTH, LATENTS, K, TOKENS
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    for name, value in (("width", WIDTH), ("latents", LATENTS), ("k", K), ("tokens", TOKENS)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    WIDTH, LATENTS, K, TOKENS = arguments.width, arguments.latents, arguments.k, arguments.tokens
    x = torch.randn(min(DIFFERENT, TOKENS), 2, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    few = x[:BLOCK].float().to(device())
    made = crosscoder(few)
    latents = torch.arange(FEW_LATENTS, device=few.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "active.parquet"
        things = {
            "encode": lambda: drained(made, x),
            "ours": lambda: scale(made, x),
            "written": lambda: scale(made, x, path),
            "per target": lambda: per_target(made, few[:FEW_TOKENS], latents),
        }
        seconds = in_turn(things, arguments.rounds)
        size = path.stat().st_size
    ours = seconds["ours"] / (TOKENS * LATENTS)
    theirs = seconds["per target"] / (FEW_TOKENS * FEW_LATENTS)
    row = {
        "encode s": seconds["encode"],
        "all latents, four targets, intervals s": seconds["ours"],
        "ours / encode": seconds["ours"] / seconds["encode"],
        "written / encode": seconds["written"] / seconds["encode"],
        "bytes an entry": size / (TOKENS * K),
        "ours ns per latent and token": 1e9 * ours,
        "a pass per target ns per latent and token": 1e9 * theirs,
        "per target / ours": theirs / ours,
    }
    show([row], arguments.json)


if __name__ == "__main__":
    main()
