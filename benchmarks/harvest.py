"""Harvesting, files written, beside the truncated forward pass that it can't do without.

.venv/bin/python benchmarks/harvest.py MODEL TOKENS.parquet LAYER [--json] [--batch-tokens N]

MODEL is a Hugging Face folder, TOKENS a token shard of a run: results/models/{model}, results/tokens/{tokenizer}/*/0000.parquet.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from turns import in_turn, show

from crossdiff.activations.harvest import harvest_shard, length_batches
from crossdiff.device import fast_dtype
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.texts.shards import Shard, read_shard


def head(shard: Shard, tokens: int) -> Shard:
    """The sequences that lie within the first tokens."""
    starts = shard.sequence_starts()
    end = int(starts[np.searchsorted(starts, tokens, side="right") - 1]) or len(shard.token)
    return Shard(*(column[:end] for column in shard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("layer", type=int)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--read", type=int, default=20_000, help="tokens of the shard that are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model, shard = load_model(arguments.model, fast_dtype()), head(read_shard(arguments.tokens), arguments.read)
    starts = shard.sequence_starts()
    lengths = np.diff(np.append(starts, len(shard.token)))
    batches = [
        torch.zeros(len(group), int(lengths[group].max()), dtype=torch.long, device=model.device)
        for group in length_batches(starts, len(shard.token), arguments.batch_tokens)
    ]
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turn(
            {
                "forward": lambda: [run_to_layer(model, batch, arguments.layer) for batch in batches],
                "harvest": lambda: harvest_shard(model, shard, arguments.layer, arguments.batch_tokens, Path(folder) / "cache.h5"),
            },
            arguments.rounds,
        )
    rates = {name: len(shard.token) / value for name, value in seconds.items()}
    row = {
        "tokens": len(shard.token),
        "padded": sum(batch.numel() for batch in batches),
        "forward tokens/s": rates["forward"],
        "harvest, files written, tokens/s": rates["harvest"],
        "harvest / forward": rates["harvest"] / rates["forward"],
    }
    show([row], arguments.json)


if __name__ == "__main__":
    main()
