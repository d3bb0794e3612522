"""Measure every number that is claimed for a GPU, print it next to its bound, and write the card's record.

    PYTHONPATH=src python benchmarks/gpu.py [--authors CHECKOUT] [--json FILE] [--only SECTION ...] [--smoke]

``make bench-gpu`` calls it. Each section is a command with its own budget of seconds. A section that fails or
takes longer is named, and the others still run. The pipeline comes last and gets the remaining time. --smoke
uses tiny shapes on a CPU and writes no record. The exit code is 1 if a section failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from card_record import card_facts, ceilings, write_record
from dag import TREE

from crossdiff.device import device
from crossdiff.provenance.code import ROOT

HERE = Path(__file__).parent
WIDTH, LATENTS, BATCH, K = 2304, 73_728, 2_048, 100  # the paper's
TOTAL = 275  # seconds of all sections together
SCALED_TOKENS = 819_200  # 16,384 in each block of documents
PAPER = f"--width {WIDTH} --latents {LATENTS} --k {K}"
SMALL = "--width 32 --latents 512 --k 4"
GEMMA_BLOCKS = 1.090e9  # parameters of Gemma-2-2B's blocks up to layer 13


class Section(NamedTuple):
    """A benchmark whose --json prints a list of one object of numbers."""

    script: str
    budget: float  # seconds
    at_full: str  # its arguments
    smoke: str


SECTIONS = {
    "step": Section("step.py", 90, f"{PAPER} --batch {BATCH}", f"{SMALL} --batch 64 --steps 2"),
    "harvest": Section(
        "harvest.py",
        75,
        "--shape gemma-2-2b --read 2000000 --batch-tokens 32768 --rounds 1",
        "--shape tiny --read 4000 --rounds 1",
    ),
    "data": Section(
        "data.py",
        75,
        f"{PAPER} --steps 300 --buffer 150000 --shards 4",
        f"{SMALL} --steps 3 --buffer 4096 --shards 2 --rows 4000",
    ),
    "scaling": Section(
        "latent_scaling.py",
        60,
        f"{PAPER} --tokens {SCALED_TOKENS} --rounds 1",
        f"{SMALL} --tokens 4096 --rounds 1",
    ),
}


class Row(NamedTuple):
    """A number of a section, with the promised bound and the aim."""

    section: str
    key: str
    bound: float
    aim: float
    more_is_better: bool

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.more_is_better else value <= self.bound


ROWS = [
    Row("step", "dense bfloat16 / ours", 2.5, 4, True),
    Row("step", "with dead latents / without", 1.3, 1.15, False),
    Row("step", "authors TF32 / ours", 3.5, 6, True),
    Row("step", "authors / ours", 12, 20, True),
    Row("step", "ours / encoder product", 8, 5, False),
    Row("step", "l1: dense bfloat16 / ours", 2, 2.5, True),
    Row("step", "peak GB", 12, 9.5, False),
    Row("harvest", "job / forward", 0.6, 0.85, True),
    Row("data", "shuffled pairs/s", 150_000, 250_000, True),
    Row("data", "training with data / step alone", 0.9, 0.97, True),
    Row("scaling", "ours / encode", 2, 1.5, False),
]

Results = dict[str, dict[str, Any]]  # section -> its numbers, or {"failed": why}


def run(command: Sequence[str], budget: float, folder: Path = ROOT) -> str:
    """Run a command and return what it prints. It is killed, with all it started, when its time is up.

    Raises RuntimeError that says why it failed.
    """
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=budget)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise RuntimeError(
            f"took longer than {budget:.0f} s; its last words: {last_line(err or out)}"
        ) from None
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {last_line(err or out)}")
    return out


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["none"])[-1]


def measured(name: str, budget: float, smoke: bool, authors: str | None) -> dict[str, Any]:
    """Run a section and return its numbers."""
    section = SECTIONS[name]
    arguments = (section.smoke if smoke else section.at_full).split()
    if name == "step" and authors:
        arguments += ["--authors", authors]
    rows = json.loads(run([sys.executable, str(HERE / section.script), "--json", *arguments], budget))
    return {key: value for row in rows for key, value in row.items()}


def pipeline(budget: float, smoke: bool) -> dict[str, Any]:
    """Time the tiny pipeline in a fresh copy of this checkout; a smoke test makes one model only."""
    with tempfile.TemporaryDirectory() as folder:
        for tree in (*TREE, "config.yaml"):
            source, target = ROOT / tree, Path(folder) / tree
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        start = time.perf_counter()
        cores = str(len(os.sched_getaffinity(0)))
        wanted = ["results/models/tiny-base"] if smoke else []
        options = ["--configfile", "configs/tiny.yaml", "--cores", cores]
        run([sys.executable, "-m", "snakemake", *wanted, *options], budget, Path(folder))
        return {"seconds": time.perf_counter() - start}


def all_sections(names: Sequence[str], smoke: bool, authors: str | None) -> Results:
    """Run each section with its budget, within ``TOTAL``."""
    start, found = time.perf_counter(), {}
    for name in names:
        left = TOTAL - (time.perf_counter() - start)
        begun = time.perf_counter()
        try:
            if name == "card":
                values = ceilings(512, 2**20) if smoke else ceilings()
            elif name == "pipeline":
                values = pipeline(left, smoke)
            else:
                values = measured(name, min(SECTIONS[name].budget, left), smoke, authors)
        except Exception as error:  # whatever it is, the other sections still run
            values = {"failed": str(error) or type(error).__name__}
        found[name] = values
        print(
            f"{name}: {time.perf_counter() - begun:.1f} s {values.get('failed', '')}",
            file=sys.stderr,
            flush=True,
        )
    return found


def table(results: Results) -> list[str]:
    """Give lines: each measurement with its bound and aim, then all other numbers."""
    lines = [f"{'':42} {'measured':>10}  {'bound':>10} {'aim':>8}"]
    shown = set()
    for row in ROWS:
        sign = ">=" if row.more_is_better else "<="
        value = results.get(row.section, {}).get(row.key)
        known = f"{value:10.4g}" if value is not None else f"{'-':>10}"
        verdict = "" if value is None or row.holds(value) else "  NOT KEPT"
        lines.append(
            f"{row.section + ': ' + row.key:42} {known}  {sign} {row.bound:<7g} {row.aim:>8g}{verdict}"
        )
        shown.add((row.section, row.key))
    for section, values in results.items():
        for key, value in values.items():
            if (section, key) not in shown:
                number = value["value"] if isinstance(value, dict) else value
                lines.append(
                    f"{section + ': ' + key:42} {number:>10.4g}"
                    if isinstance(number, float)
                    else f"{section}: {key}: {number}"
                )
    return lines


def record(results: Results) -> dict[str, Any]:
    """Update the card's record with what was measured; everything else stays."""
    step, data, harvest, scaling = (results.get(name, {}) for name in ("step", "data", "harvest", "scaling"))
    cores = len(os.sched_getaffinity(0))
    shape = f"{LATENTS:,} latents, d_model {WIDTH:,} x 2, batch {BATCH:,}, k {K}"
    values = {
        "forward": (harvest.get("forward tokens/s", 0) * 2 * GEMMA_BLOCKS, "Gemma-2-2B to layer 13"),
        "harvest": (
            harvest.get("with the hash / forward"),
            "passes, files and hash of 2 M tokens over the forward pass, Gemma-2-2B",
        ),
        "start": (harvest.get("start s"), "Python and the imports of a harvest, s"),
        "pairs": (
            data.get("shuffled pairs/s", 0) * 2 * 2 * WIDTH / cores,
            f"shuffled pairs, d_model {WIDTH:,}, {cores} cores",
        ),
        "training": (data.get("training with data / step alone"), shape),
        "encode": (
            2 * 2 * WIDTH * LATENTS * SCALED_TOKENS / scaling["encode s"] if "encode s" in scaling else None,
            shape,
        ),
        "scaling": (scaling.get("ours / encode"), shape),
    }
    known = {
        key: {"value": value, "of": of, "source": "make bench-gpu"}
        for key, (value, of) in values.items()
        if value
    }
    if "failed" not in results.get("card", {}):
        known |= {key: value | {"source": "make bench-gpu"} for key, value in results.get("card", {}).items()}
    of_shape = {"d_model": WIDTH, "latents": LATENTS, "batch": BATCH, "k": K, "source": "make bench-gpu"}
    named = (
        ("batchtopk", {}, "batchtopk ms"),
        ("batchtopk", {"dead": 0.1}, "batchtopk, dead latents ms"),
        ("l1", {}, "l1 ms"),
    )
    steps = [
        {"loss": loss} | of_shape | extra | {"seconds": step[key] / 1e3}
        for loss, extra, key in named
        if key in step
    ]
    return card_facts() | {"measured": known, "details": results} | ({"steps": steps} if steps else {})


def plan(record: Path) -> str:
    """Estimate the paper's whole run from the rates of the record."""
    crossdiff = [sys.executable, "-c", "import sys; from crossdiff.cli import main; sys.exit(main())"]
    try:
        return run([*crossdiff, "plan", "--configfile", "configs/gemma2-2b.yaml", "--card", str(record)], 60)
    except RuntimeError as error:
        return f"crossdiff plan: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("card", *SECTIONS, "pipeline")
    parser.add_argument("--authors", metavar="CHECKOUT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, too")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names)
    )
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif device().type != "cuda":
        raise SystemExit(
            "there is no GPU that torch can use: --smoke runs everything on a CPU, in tiny shapes"
        )
    results = all_sections(arguments.only, arguments.smoke, arguments.authors)
    meaning = ", tiny shapes: these numbers mean nothing" if arguments.smoke else ""
    print(f"{card_facts()['card']}, torch {torch.__version__}{meaning}", *table(results), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if not arguments.smoke:
        path = write_record(record(results))
        print(f"the record of this card: {path}", "", plan(path), sep="\n")
    if failed := [name for name, values in results.items() if "failed" in values]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
