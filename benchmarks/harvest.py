"""Compare harvesting, with files written and hashed, with the truncated forward pass that it needs anyway.

.venv/bin/python benchmarks/harvest.py MODEL TOKENS.parquet LAYER [--json] [--batch-tokens N]
.venv/bin/python benchmarks/harvest.py --shape gemma-2-2b [--read N] [--json] [--batch-tokens N]

MODEL is a Hugging Face folder: results/models/{model}. TOKENS is a token shard of a run:
results/tokens/{tokenizer}/*/0000.parquet. --shape takes a made-up model and made-up tokens, and needs no
files: gemma-2-2b is for a GPU, tiny for any machine. "job" is everything that a job of the workflow does: the
start of Python and its imports, reading the model, forward passes, files, hashes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel
from turns import in_turn, show

from crossdiff.activations.harvest import harvest_shard, length_batches
from crossdiff.device import device, fast_dtype, is_synchronous
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.provenance.hashing import content
from crossdiff.texts.shards import Shard, read_shard


def head(shard: Shard, tokens: int) -> Shard:
    """Take the sequences that lie within the first ``tokens`` tokens."""
    starts = shard.sequence_starts()
    end = int(starts[np.searchsorted(starts, tokens, side="right") - 1]) or len(shard.token)
    return Shard(*(column[:end] for column in shard))


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}
SHAPES = {  # name: (configuration, layer)
    "gemma-2-2b": ({"num_hidden_layers": 15}, 13),
    "tiny": ({"num_hidden_layers": 4} | SMALL, 2),
}


def made_up(shape: str, tokens: int) -> tuple[PreTrainedModel, Shard, int]:
    """Make a model of random weights and sequences of 256 to 1,024 random tokens; give the layer, too."""
    values, layer = SHAPES[shape]
    torch.manual_seed(0)
    with device():
        model = AutoModelForCausalLM.from_config(Gemma2Config(**values), dtype=fast_dtype()).eval()
    generator = np.random.default_rng(0)
    lengths = generator.integers(256, 1025, size=tokens // 256 + 1)
    position = np.concatenate(
        [
            np.arange(length, dtype=np.int32)
            for length in lengths[: np.searchsorted(lengths.cumsum(), tokens) + 1]
        ]
    )[:tokens]
    ids = generator.integers(0, model.config.vocab_size, tokens).astype(np.int32)
    no_role = np.zeros(tokens, np.int8)
    return model, Shard(ids, np.cumsum(position == 0).astype(np.int64), position, no_role, no_role), layer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("tokens", type=Path, nargs="?")
    parser.add_argument("layer", type=int, nargs="?")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--read", type=int, default=20_000, help="tokens of the shard that are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    before = time.time()
    if arguments.shape:
        model, shard, layer = made_up(arguments.shape, arguments.read)
    elif arguments.layer is None:
        parser.error("MODEL, TOKENS and LAYER, or --shape")
    else:
        model = load_model(arguments.model, fast_dtype())
        shard = head(read_shard(arguments.tokens), arguments.read)
        layer = arguments.layer
    made_in = time.time() - before
    starts = shard.sequence_starts()
    lengths = np.diff(np.append(starts, len(shard.token)))
    batches = [
        torch.zeros(len(group), int(lengths[group].max()), dtype=torch.long, device=model.device)
        for group in length_batches(lengths, arguments.batch_tokens)
    ]

    def forward() -> None:
        for batch in batches:
            run_to_layer(model, batch, layer)
        if not is_synchronous(model.device):
            torch.cuda.synchronize()

    start = time.time() - psutil.Process().create_time() - made_in
    with tempfile.TemporaryDirectory() as folder:
        cache, saved = Path(folder) / "cache.h5", Path(folder) / "model"
        model.save_pretrained(saved)

        def load() -> None:
            load_model(saved, fast_dtype())

        def harvest() -> None:
            harvest_shard(model, shard, {layer: cache}, arguments.batch_tokens)

        for batch in batches[
            :3
        ]:  # three batches warm up; a whole round of millions of tokens would take too long
            run_to_layer(model, batch, layer)
        seconds = in_turn(
            {"forward": forward, "harvest": harvest, "hash": lambda: content(cache), "load": load},
            arguments.rounds,
            0,
        )
    rates = {name: len(shard.token) / value for name, value in seconds.items()}
    row = {
        "tokens": len(shard.token),
        "padded": sum(batch.numel() for batch in batches),
        "forward tokens/s": rates["forward"],
        "harvest, files written, tokens/s": rates["harvest"],
        "harvest / forward": rates["harvest"] / rates["forward"],
        "with the hash / forward": seconds["forward"] / (seconds["harvest"] + seconds["hash"]),
        "start s": start,
        "load s": seconds["load"],
        "job / forward": seconds["forward"]
        / (start + seconds["load"] + seconds["harvest"] + seconds["hash"]),
    }
    show([row], arguments.json)


if __name__ == "__main__":
    main()
