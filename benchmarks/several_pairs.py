"""Run several pairs and layers from one config, and each of them from a config of its own.

    python benchmarks/several_pairs.py [--config configs/smollm2-135m-pairs.yaml] [--scale 0.25]

Each run has a folder of its own, so separate runs share nothing but the downloaded packages. ``--scale``
shortens texts and trainings alike. The table has seconds of wall time and of CPU, and the ratio of the run
of all to the sum of the separate ones. The separate runs take turns with nothing else.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from crossdiff.config import load
from crossdiff.config.pairs import Pair

ROOT = Path(__file__).parents[1]
TREE = (
    "Snakefile",
    "configs",
    "data",
    "envs",
    "profiles",
    "report",
    "rules",
    "src",
    "tests/data",
    "workflow_scripts",
)


class Took(NamedTuple):
    wall: float  # seconds
    cpu: float


def scaled(values: dict[str, Any], scale: float) -> dict[str, Any]:
    """The config with shorter texts and trainings."""
    values = deepcopy(values)
    for dataset in values["datasets"].values():
        dataset |= {key: max(1000, round(scale * dataset[key])) for key in ("tokens", "validation_tokens")}
    for crosscoder in values["crosscoders"].values():
        crosscoder["tokens"] = round(scale * crosscoder["tokens"])
        if "threshold_start_step" in crosscoder:
            crosscoder["threshold_start_step"] = round(scale * crosscoder["threshold_start_step"])
    pair = values.get("pair", {})
    for model in (*values.get("models", {}).values(), *(pair[role] for role in ("base", "chat") if pair)):
        if "finetune" in model:
            data = model["finetune"]["data"]
            model["finetune"]["data"] = {name: round(scale * tokens) for name, tokens in data.items()}
    return values


def alone(values: dict[str, Any], pair: Pair) -> dict[str, Any]:
    """The config with one pair at one layer."""
    named = values["pairs"][pair.name]
    models = {name: values["models"][name] for name in (named["base"], named["chat"])}
    only = {pair.name: {"base": named["base"], "chat": named["chat"], "layer": pair.layer}}
    return values | {"models": models, "pairs": only}


def run(values: dict[str, Any], folder: Path, *targets: str) -> Took:
    """Run a config in a new folder, which may have packages."""
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", *targets, "--configfile", "config.yaml", "--quiet", "all"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = sum(getattr(after, key) - getattr(before, key) for key in ("ru_utime", "ru_stime"))
    return Took(end - start, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/smollm2-135m-pairs.yaml")
    parser.add_argument("--scale", type=float, default=1.0, help="share of texts and trainings (default: 1)")
    arguments = parser.parse_args()
    values = scaled(yaml.safe_load(arguments.config.read_text()), arguments.scale)
    config = load(values)
    with tempfile.TemporaryDirectory() as scratch:
        packages = [f"results/packages/{key}.whl" for key in config.packages()]
        fetched = Path(scratch, "packages")
        fetched.mkdir()
        if packages:
            run(values, fetched, *packages)
        runs = {"all": values}
        runs |= {f"{pair.name}, layer {pair.layer}": alone(values, pair) for pair in config.comparisons}
        took = {}
        print(f"{'run':<32}{'wall s':>10}{'CPU s':>10}")
        for number, (name, one) in enumerate(runs.items()):
            folder = Path(scratch, str(number))
            if packages:
                shutil.copytree(fetched / "results", folder / "results")
            took[name] = run(one, folder)
            print(f"{name:<32}{took[name].wall:>10.1f}{took[name].cpu:>10.1f}", flush=True)
    separate = [took[name] for name in runs if name != "all"]
    ratios = [took["all"][i] / sum(one[i] for one in separate) for i in (0, 1)]
    print(f"{'all / sum of the others':<32}{ratios[0]:>10.3f}{ratios[1]:>10.3f}")


if __name__ == "__main__":
    main()
