"""How long the first look takes, in seconds per part, on a pair whose models and token shards are there.

Run in the folder of a run, such as that of the default config after ``snakemake models tokens``::

    python benchmarks/first_look.py config.yaml
"""

import argparse
import time
from pathlib import Path

import yaml

from crossdiff.config import MODELS
from crossdiff.device import fast_dtype
from crossdiff.first_look.sample import prompts, sample
from crossdiff.first_look.whole import first_look
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.run import Run


def main(config: str) -> None:
    run = Run(yaml.safe_load(Path(config).read_text(encoding="utf-8")))
    seen, settings = run.comparisons[0], run.config.first_look
    begun, seconds = time.monotonic(), {}
    base, chat = (load_model(f"results/models/{seen.pair.model_name(role)}", fast_dtype()) for role in MODELS)
    seconds["loading both models"] = time.monotonic() - begun
    train = {name: f"{seen.tokens}/{name}.train/0000.parquet" for name in run.config.datasets}
    held_out = {
        name: [read_shard(f"{seen.tokens}/{name}.validation/0000.parquet")] for name in run.config.datasets
    }
    longest = run.config.tokens.context - settings.answer_tokens
    first_look(
        base,
        chat,
        load_chat_tokenizer(f"results/tokenizers/{seen.tokenizer_name}"),
        sample(train, settings.tokens),
        prompts(held_out, settings.conversations, longest),
        settings,
        run.config.activations.batch_tokens,
        seconds,
    )
    for part, took in {**seconds, "all": time.monotonic() - begun}.items():
        print(f"{took:6.1f} s  {part}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    main(parser.parse_args().config)
