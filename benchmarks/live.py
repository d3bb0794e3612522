"""Train the crosscoders of a config from caches, and while both models run (activations.store: none).

    python benchmarks/live.py [--config config.yaml] [--sample 9000] [--scale 0.25]

Both runs start from the same models and token shards, in folders of their own, and end with the evaluation of
every crosscoder. The table has the seconds of each run, the bytes below results/activations, and the fraction
of variance explained on held-out tokens. The run without caches may take 1.15 times the run with caches, if
that run harvested once for each epoch: (epochs - 1) times its harvest of the training tokens is added. The
harvest is the time of its jobs, divided by the cores. ``--scale`` shortens texts and trainings alike.
"""

import argparse
import csv
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from several_pairs import ROOT, run, scaled

from crossdiff.config import Config, load

RUNS = {"from caches": "all", "models run": "none"}


def harvested(folder: Path) -> float:
    """Seconds of the jobs that harvested training tokens."""
    files = folder.glob("logs/activations/**/*.train/*.benchmark.tsv")
    return sum(float(row["s"]) for file in files for row in csv.DictReader(file.open(), delimiter="\t"))


def stored(folder: Path) -> int:
    """Bytes below results/activations."""
    return sum(path.stat().st_size for path in folder.glob("results/activations/**/*") if path.is_file())


def quality(folder: Path, config: Config) -> dict[str, list[float]]:
    """Crosscoder and seed -> fraction of variance explained of both models."""
    place = folder / f"results/{config.pair.name}/layer{config.pair.layer}"
    trainings = [f"{name}/seed{seed}" for name in config.crosscoders for seed in config.seeds]
    found = {name: json.loads((place / name / "evaluation.json").read_text()) for name in trainings}
    return {name: [values["fve_base"], values["fve_chat"]] for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config.yaml")
    parser.add_argument("--sample", type=int, default=9000, help="sample_tokens (default: 9000)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of texts and trainings (default: 1)")
    arguments = parser.parse_args()
    given: dict[str, Any] = yaml.safe_load(arguments.config.read_text())
    values = scaled(given, arguments.scale)
    config = load(values)
    targets = [
        f"results/{config.pair.name}/layer{config.pair.layer}/{name}/seed{seed}/evaluation.json"
        for name in config.crosscoders
        for seed in config.seeds
    ]
    took, bytes_of, fve, harvest = {}, {}, {}, 0.0
    with tempfile.TemporaryDirectory() as scratch:
        begun = Path(scratch, "begun")
        begun.mkdir()
        run(values, begun, "models", "tokens")
        for name, store in RUNS.items():
            folder = Path(scratch, store)
            shutil.copytree(begun / "results", folder / "results")
            activations = values.get("activations", {}) | {"store": store, "sample_tokens": arguments.sample}
            took[name] = run(values | {"activations": activations}, folder, *targets)
            bytes_of[name], fve[name] = stored(folder), quality(folder, config)
            harvest = harvest or harvested(folder)
    print(f"{'run':<14}{'wall s':>9}{'CPU s':>9}{'caches MB':>11}  FVE (base, chat)")
    for name in RUNS:
        shown = ", ".join(f"{one} {base:.4f} {chat:.4f}" for one, (base, chat) in fve[name].items())
        print(
            f"{name:<14}{took[name].wall:>9.1f}{took[name].cpu:>9.1f}{bytes_of[name] / 1e6:>11.1f}  {shown}"
        )
    cached, live = RUNS
    tokens = sum(dataset.tokens for dataset in config.datasets.values())
    epochs = max(entry.tokens for entry in config.crosscoders.values()) / tokens
    allowed = took[cached].wall + (epochs - 1) * harvest / len(os.sched_getaffinity(0))
    apart = [
        abs(a - b) for name in fve[cached] for a, b in zip(fve[cached][name], fve[live][name], strict=True)
    ]
    print(f"time / (from caches + {epochs - 1:.2f} x its harvest): {took[live].wall / allowed:.3f}")
    print(f"disk: {bytes_of[live] / bytes_of[cached]:.3f}")
    print(f"largest difference in FVE: {100 * max(apart):.2f} points")


if __name__ == "__main__":
    main()
