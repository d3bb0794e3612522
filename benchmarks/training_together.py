"""Measure the CPU time of trainings in jobs of their own, and of the same trainings with train_together.

    .venv/bin/python benchmarks/training_together.py [--results DIR] [--seeds 0 1] [--cores 2] [--json]

DIR is the folder of a finished run, whose caches, crosscoders and settings are taken. It is not written to.
Separate jobs run --cores at a time, and jobs that train together run one at a time, as Snakemake runs them.
Each job is the rule's script in a process of its own, with one thread. Its start, imports and hashing count.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crossdiff.provenance.code import SCRIPTS
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.provenance.records import Record, read_record
from crossdiff.workflow.together import PLANNED, RULES

OUTPUTS = {"weights": "weights.safetensors", "config": "config.json", "log": "training.csv"}
# As Snakemake and rules/common.smk set it.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
JOB = """
import json, runpy, sys
from types import SimpleNamespace
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards

def named(kind, pairs):
    files = kind([path for _, path in pairs])
    for name in dict(pairs):
        places = [number for number, pair in enumerate(pairs) if pair[0] == name]
        files._set_name(name, places[0], None if name == "summary" or kind is OutputFiles else places[-1] + 1)
    return files

job = json.load(open(sys.argv[1]))
snakemake = SimpleNamespace(
    rule=job["rule"], config=job["config"], log=[job["log"]], threads=1, resources={},
    wildcards=Wildcards(fromdict=job["wildcards"]), params=Params(fromdict=job["params"]),
    input=named(InputFiles, job["inputs"]), output=named(OutputFiles, job["outputs"]),
)
runpy.run_path(sys.argv[2], {"snakemake": snakemake}, "__main__")
"""


def records(run: Path) -> list[Record]:
    """Read the record of one training of each crosscoder of a run."""
    found = [read_record(path) for path in sorted(run.glob("results/*/layer*/*/seed*/weights.safetensors"))]
    if not found:
        raise SystemExit(f"{run}: found no crosscoders; run snakemake crosscoders there")
    return list({record.wildcards["crosscoder"]: record for record in found}.values())


def jobs_of(run: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """Describe the job of every crosscoder and seed."""
    jobs = []
    for record in records(run):
        for seed in seeds:
            wildcards = record.wildcards | {"seed": str(seed)}
            folder = "results/{pair}/layer{layer}/{crosscoder}/seed{seed}".format(**wildcards)
            jobs.append(
                {
                    "rule": RULES[0],
                    "config": read_config([run / path for path in record.run["config"]]),
                    "log": f"{folder}/job.log",
                    "wildcards": wildcards,
                    "params": record.params,
                    "inputs": [(entry.name, entry.path) for entry in record.inputs],
                    "outputs": [(name, f"{folder}/{file}") for name, file in OUTPUTS.items()],
                    "made": [],
                }
            )
    return jobs


def prepare(folder: Path, run: Path, jobs: list[dict[str, Any]]) -> None:
    """Make a folder in which jobs find the run's caches at their paths."""
    for path in {path for job in jobs for _, path in job["inputs"]}:
        for name in (path, f"{path}.record.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(run / name)
    for number, job in enumerate(jobs):
        (folder / job["log"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.json").write_text(json.dumps(job))


def run_jobs(folder: Path, number: int, at_once: int) -> tuple[float, float]:
    """Run all jobs, and give the CPU seconds of their processes and the wall time."""

    def one(job: int) -> None:
        command = [sys.executable, "-c", JOB, f"{job}.json", str(SCRIPTS / f"{RULES[0]}.py")]
        if subprocess.run(command, cwd=folder, env=os.environ | ENVIRONMENT).returncode:
            raise SystemExit(f"job {job} failed; its log:\n{logs(folder)}")

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(number)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("job.log"))


def results(folder: Path, jobs: list[dict[str, Any]]) -> list[bytes]:
    return [(folder / path).read_bytes() for job in jobs for _, path in job["outputs"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    run = options.results.resolve()
    jobs = jobs_of(run, options.seeds)
    found: dict[str, Any] = {"jobs": len(jobs), "cores": options.cores}
    made = []
    for name, at_once in (("separate", options.cores), ("together", 1)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(folder, run, jobs)
            if name == "together":
                (folder / PLANNED).parent.mkdir(parents=True)
                keys = ("wildcards", "params", "inputs", "outputs", "made")
                (folder / PLANNED).write_text(json.dumps([{key: job[key] for key in keys} for job in jobs]))
            found[f"{name}_cpu_s"], found[f"{name}_wall_s"] = run_jobs(folder, len(jobs), at_once)
            made.append(results(folder, jobs))
    found["cpu_ratio"] = found["together_cpu_s"] / found["separate_cpu_s"]
    found["equal_bytes"] = made[0] == made[1]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        print(f"{key:<18}{value:>8.3f}" if isinstance(value, float) else f"{key:<18}{value!s:>8}")


if __name__ == "__main__":
    main()
