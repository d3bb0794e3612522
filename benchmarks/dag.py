"""Time what settings, code digests and records add to a dry-run: one DAG is planned with them and without.

python benchmarks/dag.py [--jobs 1000] [--rounds 5] [--json]
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from graphlib import TopologicalSorter
from pathlib import Path

import yaml

from crossdiff.provenance.hashing import content
from crossdiff.provenance.records import Record, RecordedFile, record_id, write_record

ROOT = Path(__file__).parent.parent
TREE = (
    "CITATION.cff Snakefile configs data envs profiles report rules src tests/data workflow_scripts".split()
)
CONFIG = "configs/benchmark.yaml"
FOLDERS = ("results/models/tiny-base", "results/models/tiny-chat", "results/tokenizers/tiny-chat")


def checkout(folder: Path, jobs: int) -> Path:
    """Make a copy of the repository with a config that gives about ``jobs`` jobs: many small shards."""
    for name in TREE:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("__pycache__")
        ) if source.is_dir() else shutil.copy(source, target)
    values = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
    shards = jobs // 3  # a shard is one job of tokenise and two of harvest_activations
    values["tokens"]["shard"] = 1000
    values["datasets"]["requests"] |= {"tokens": 1000 * (shards - 10), "validation_tokens": 5000}
    (folder / CONFIG).write_text(yaml.safe_dump(values))
    return folder


def strip(folder: Path) -> None:
    """Remove settings, digests and records, so that plain Snakemake plans the same DAG."""
    common, snakefile = folder / "rules/common.smk", folder / "Snakefile"
    replace(
        common, "settings = RUN.settings\n", "settings = lambda *keys: 0\ncode_digest = lambda *names: 0\n"
    )
    [start] = re.findall(r"^planned_jobs\.start\(.*\)\n", snakefile.read_text(), re.MULTILINE)
    replace(snakefile, start, "")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has changed: {old!r} is not in it"
    path.write_text(text.replace(old, new))


def finish(folder: Path) -> None:
    """Put a small file with a record in the place of every output, as if all jobs had run."""
    jobs = json.loads((folder / ".snakemake/crossdiff/plan.json").read_text().partition("\n")[2])
    os.chdir(folder)
    order = TopologicalSorter({output: inputs for output, (_, _, inputs, _) in jobs.items()}).static_order()
    for output in (path for path in order if path in jobs):
        path = Path(output)
        if output.endswith(FOLDERS):
            path.mkdir(parents=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        (path / "file" if path.is_dir() else path).write_text(output)
        rule, params, inputs, _ = jobs[output]
        entries = [RecordedFile.of("", name, content(name)._replace(files=None)) for name in inputs]
        run = {"config": [CONFIG], "packages": {}, "started": "", "finished": ""}
        outputs = [RecordedFile.of("", output, content(path))]
        write_record(
            output,
            Record(
                record_id(rule, {}, params, entries, [output]), rule, {}, params, {}, entries, outputs, run
            ),
        )


def snakemake(folder: Path, *arguments: str) -> tuple[float, str]:
    """Run Snakemake; give its seconds and what it prints."""
    command = [sys.executable, "-m", "snakemake", "--configfile", CONFIG, *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    start = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert result.returncode == 0, result.stdout + result.stderr
    return seconds, result.stdout + result.stderr


def compare(folders: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Time a dry-run in each folder, one after the other in every round."""
    found: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(rounds):
        for name, folder in folders.items():
            found[name].append(snakemake(folder, "--dry-run", "--quiet", "all")[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: checkout(Path(temporary) / name, options.jobs) for name in ("without", "with")}
        strip(folders["without"])
        jobs = int(snakemake(folders["with"], "--dry-run")[1].rpartition("\ntotal")[2].split()[0])
        states = {"nothing made yet": compare(folders, options.rounds)}
        finish(folders["with"])
        shutil.copytree(
            folders["with"] / "results", folders["without"] / "results", copy_function=shutil.copy2
        )
        snakemake(folders["without"], "--touch")
        for folder in folders.values():
            said = snakemake(folder, "--dry-run")[1]
            assert "Nothing to be done" in said, said
        states["all up to date"] = compare(folders, options.rounds)
        for state, found in states.items():
            without, with_ = (statistics.median(found[name]) for name in ("without", "with"))
            rows.append(
                {
                    "jobs": jobs,
                    "state": state,
                    "without_s": without,
                    "with_s": with_,
                    "ratio": with_ / without,
                }
            )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    header = f"{'jobs':>6}  {'state':<18}{'plain':>8}{'ours':>8}{'ratio':>8}"
    print(f"{header}   (median of {options.rounds} rounds, seconds)")
    for row in rows:
        times = f"{row['without_s']:>8.2f}{row['with_s']:>8.2f}{row['ratio']:>8.2f}"
        print(f"{row['jobs']:>6}  {row['state']:<18}{times}")


if __name__ == "__main__":
    main()
