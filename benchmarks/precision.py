"""Measure what bfloat16 encoder products cost, against float32, in variance explained on held-out tokens.

.venv/bin/python benchmarks/precision.py [CONFIG] [--json]

It takes the activations of a finished run of CONFIG (config.yaml) and trains each of its crosscoders twice,
with the first seed.
"""

import argparse
import tempfile
from pathlib import Path

import yaml
from turns import show

from crossdiff.activations.pairs import PairedActivations, PairedShard, read_summary
from crossdiff.config import MODELS, Config, load
from crossdiff.crosscoders.encoding import encode
from crossdiff.crosscoders.quality import reconstruction_quality
from crossdiff.crosscoders.trainer import train
from crossdiff.device import device


def activations(config: Config, split: str) -> PairedActivations:
    """Pair both models' caches of a finished run."""
    results, layer, tokenizer = Path("results"), f"layer{config.pair.layer}", config.tokenizer_name
    caches = [results / "activations" / config.pair.model_name(model) / layer / tokenizer for model in MODELS]
    paired = [
        PairedShard(path, *(cache / path.parent.name / f"{path.stem}.h5" for cache in caches))
        for name in config.datasets
        for path in sorted((results / f"tokens/{tokenizer}/{name}.{split}").glob("*.parquet"))
    ]
    return PairedActivations(paired, read_summary(results / config.pair.name / layer / "summary.json"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="config.yaml")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = load(yaml.safe_load(Path(arguments.config).read_text()))
    training, held_out = (activations(config, split) for split in ("train", "validation"))
    rows = []
    for name, settings in config.crosscoders.items():
        fve = {}
        for precision in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                settings = settings.model_copy(update={"precision": precision})
                crosscoder = train(
                    training, settings, config.seeds[0], device(), Path(folder) / "log.csv", held_out
                ).eval()
            quality, _ = reconstruction_quality(
                crosscoder.requires_grad_(False), encode(crosscoder, held_out.blocks())
            )
            fve[precision] = [100 * quality[f"fve_{model}"] for model in MODELS]
        for model, full, half in zip(MODELS, *fve.values(), strict=True):
            rows.append(
                {
                    "crosscoder": name,
                    "model": model,
                    "float32 %": full,
                    "bfloat16 %": half,
                    "difference, points": half - full,
                }
            )
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
